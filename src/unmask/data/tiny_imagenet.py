"""Tiny ImageNet: prepared once from the official zip, then read from two safetensors files."""

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unmask.data.dataset import DataSet
from unmask.data.pictures import as_tensor, read_rgb
from unmask.data.sources import absent, check_split, writing
from unmask.data.zips import ZipReader, open_zip
from unmask.errors import DataError

SPLITS = ("train", "val")
SIDE = 64
IMAGES_PER_CLASS = 500  # training images of each class in the full set

_FOLDER = "tiny-imagenet"
_WNIDS, _WORDS, _ANNOTATIONS = "wnids.txt", "words.txt", "val/val_annotations.txt"
_TRAIN = re.compile(r"train/(?P<wnid>[^/]+)/images/(?P=wnid)_(?P<number>[0-9]{1,3})\.JPEG")
_VAL = re.compile(r"val_(?P<number>[0-9]{1,5})\.JPEG")


@dataclass(frozen=True)
class _Example:
    id: int
    label: int
    member: str


def prepare(zip_path: Path, data_dir: Path, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Decode the official zip into `<data_dir>/tiny-imagenet/{train,val}.safetensors` and return that folder.

    Labels follow wnids.txt, class names words.txt, the labels of val val_annotations.txt; grey images become RGB. Ids
    are the official numbers: label * 500 + number (train), number (val). `progress(done, total)` is called after each
    image. Both files are complete before either gets its name. Raises `DataError` for a zip that is damaged, lacks
    members or holds unsafe paths, `OutputError` where the folder cannot be written. Source: Le and Yang, Tiny ImageNet
    (CS231n), 2015.
    """
    folder = data_dir / _FOLDER
    with open_zip(zip_path, _WNIDS) as archive:
        labels = _labels(archive)
        classes = _class_names(archive, labels)
        examples = {"train": _train_examples(archive, labels), "val": _val_examples(archive, labels)}
        advance = _counter(progress, sum(len(listed) for listed in examples.values()))
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(dir=folder, prefix=".prepare-")
        with scratch as name:
            finished = [Path(name) / f"{split}.safetensors" for split in SPLITS]
            for split, path in zip(SPLITS, finished, strict=True):
                data = _decode(archive, split, examples[split], classes, advance)
                with writing(folder):
                    _save(data, path)
            with writing(folder):
                for path in finished:
                    path.replace(folder / path.name)
    return folder


def load(split: str, data_dir: Path) -> DataSet:
    """Return the prepared images (N, 3, 64, 64) uint8 of one split; "test" gives val.

    The labels of the official test images were never published, so val is what everybody evaluates on. Raises
    `DataError` for an unknown split and for prepared files that are absent or damaged.
    """
    check_split("tiny-imagenet", split, (*SPLITS, "test"))
    shown = "val" if split == "test" else split
    path = _prepared(shown, data_dir)
    if not path.is_file():
        raise absent(
            f"Tiny ImageNet ({shown})",
            (path,),
            "run `unmask data prepare tiny-imagenet tiny-imagenet-200.zip` once on the official zip",
        )
    try:
        with safe_open(path, framework="pt") as file:
            classes = tuple(str(name) for name in json.loads(file.metadata()["classes"]))
            images, labels, ids = (file.get_tensor(key) for key in ("images", "labels", "ids"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise DataError(f"{path} is damaged ({problem}). Delete it and prepare Tiny ImageNet again.") from problem
    return _data_set(shown, images, labels, ids, classes)


def available(data_dir: Path) -> bool:
    """Return whether both prepared files lie in `data_dir`."""
    return all(_prepared(split, data_dir).is_file() for split in SPLITS)


def _prepared(split: str, data_dir: Path) -> Path:
    return data_dir / _FOLDER / f"{split}.safetensors"


def _data_set(split: str, images: Tensor, labels: Tensor, ids: Tensor, classes: tuple[str, ...]) -> DataSet:
    return DataSet("tiny-imagenet", split, images, labels, ids, scale=255, classes=classes)


def _labels(archive: ZipReader) -> dict[str, int]:
    wnids = archive.lines(_WNIDS)
    if not wnids or len(set(wnids)) != len(wnids):
        raise archive.error(f"{_WNIDS} is empty or names a class twice")
    return {wnid: label for label, wnid in enumerate(wnids)}


def _class_names(archive: ZipReader, labels: dict[str, int]) -> tuple[str, ...]:
    words = dict(line.split("\t", 1) for line in archive.lines(_WORDS) if "\t" in line)
    missing = [wnid for wnid in labels if wnid not in words]
    if missing:
        raise archive.error(f"{_WORDS} does not name the class {missing[0]}")
    return tuple(words[wnid] for wnid in labels)


def _train_examples(archive: ZipReader, labels: dict[str, int]) -> list[_Example]:
    examples = []
    for member in archive.members:
        if not (member.startswith("train/") and member.lower().endswith(".jpeg")):
            continue
        match = _TRAIN.fullmatch(member)
        if match is None or match["wnid"] not in labels or int(match["number"]) >= IMAGES_PER_CLASS:
            raise archive.error(f"{member} is not train/<wnid>/images/<wnid>_<0 to 499>.JPEG for a class of {_WNIDS}")
        label = labels[match["wnid"]]
        examples.append(_Example(label * IMAGES_PER_CLASS + int(match["number"]), label, member))
    empty = set(labels.values()) - {example.label for example in examples}
    if empty:
        raise archive.error(f"it lacks training images of {list(labels)[min(empty)]}")
    return sorted(examples, key=lambda example: example.id)


def _val_examples(archive: ZipReader, labels: dict[str, int]) -> list[_Example]:
    examples = []
    for line in archive.lines(_ANNOTATIONS):
        name, wnid = [*line.split("\t"), ""][:2]
        match, member = _VAL.fullmatch(name), f"val/images/{name}"
        if match is None or wnid not in labels:
            raise archive.error(
                f"the line {line!r} of {_ANNOTATIONS} does not give val_<number>.JPEG and a known class"
            )
        if member not in archive.members:
            raise archive.error(f"it lacks {member}")
        examples.append(_Example(int(match["number"]), labels[wnid], member))
    pictures = {name for name in archive.members if name.startswith("val/images/") and name.lower().endswith(".jpeg")}
    unlabelled = pictures - {example.member for example in examples}
    if unlabelled or not examples:
        raise archive.error(f"{_ANNOTATIONS} gives no label for {min(unlabelled, default='any image')}")
    return sorted(examples, key=lambda example: example.id)


def _counter(progress: Callable[[int, int], None] | None, total: int) -> Callable[[], None]:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return advance


def _decode(
    archive: ZipReader, split: str, examples: list[_Example], classes: tuple[str, ...], advance: Callable[[], None]
) -> DataSet:
    images = torch.empty((len(examples), 3, SIDE, SIDE), dtype=torch.uint8)
    for row, example in enumerate(examples):
        picture = read_rgb(BytesIO(archive.read(example.member)), f"{archive.path}, {example.member}", ("JPEG",))
        if picture.size != (SIDE, SIDE):
            raise archive.error(f"{example.member} is {picture.width}x{picture.height}, expected {SIDE}x{SIDE}")
        images[row] = as_tensor(picture)
        advance()
    labels = torch.tensor([example.label for example in examples])
    return _data_set(split, images, labels, torch.tensor([example.id for example in examples]), classes)


def _save(data: DataSet, path: Path) -> None:
    tensors = {"images": data.images, "labels": data.labels, "ids": data.ids}
    save_file(tensors, path, metadata={"classes": json.dumps(data.classes)})
    # safetensors lets only the owner read what it writes, but a folder of data is often shared.
    path.chmod(0o644)
