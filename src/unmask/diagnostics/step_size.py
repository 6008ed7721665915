"""Does the usual attack fail because its steps are small?"""

from __future__ import annotations

from unmask.attacks import pgd
from unmask.diagnostics.finding import Finding
from unmask.diagnostics.sample import Sample

SHARE = 1 / 3
STEPS, STEP_SHARE = 20, 2 / 3


def step_size(survivors: Sample, claim: str, steps: int = STEPS) -> Finding:
    """Attack images that the usual attack, `claim`, left standing again, with steps of two thirds of eps.

    On models that hide their gradients in small ripples, large steps find what small ones do not (Mosbach et al. 2018,
    heatmaps: CLP and LSQ fall at large steps, adversarially trained models at small ones). At most `steps` + 1 forwards
    and `steps` backwards per image.
    """
    result = pgd(
        survivors.model,
        survivors.x,
        survivors.y,
        threat=survivors.threat,
        steps=steps,
        step_size=STEP_SHARE * survivors.threat.eps,
        generator=survivors.streams.child("step_size"),
    )
    broken = int(result.broken.sum())
    sensitive = broken > 1 and broken / len(survivors) >= SHARE
    return Finding(
        "step_size",
        "warn" if sensitive else "ok",
        f"{steps} steps of two thirds of eps break {broken} of {len(survivors)} images that {claim} leaves standing.",
        {
            "broken": broken,
            "steps": steps,
            "step_size": STEP_SHARE * survivors.threat.eps,
            "n": len(survivors),
            "claim": claim,
        },
        "Vary the step size: see the heatmap (unmask diagnose MODEL heatmap)." if sensitive else "",
        forwards=int(result.forwards.sum()),
        backwards=int(result.backwards.sum()),
    )
