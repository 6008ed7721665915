"""Figures for publication: matplotlib figures as wide as a column or two, drawn from the evidence of findings."""

from unmask.report.figures.activations import activations_figure
from unmask.report.figures.canvas import FORMATS, Columns, Panel, save
from unmask.report.figures.curves import curve_figure
from unmask.report.figures.gallery import gallery_figure
from unmask.report.figures.heatmap import heatmap_figure
from unmask.report.figures.histogram import histogram_figure
from unmask.report.figures.linearised import linearised_figure, logits_figure
from unmask.report.figures.surface import surface_figure

__all__ = [
    "FORMATS",
    "Columns",
    "Panel",
    "activations_figure",
    "curve_figure",
    "gallery_figure",
    "heatmap_figure",
    "histogram_figure",
    "linearised_figure",
    "logits_figure",
    "save",
    "surface_figure",
]
