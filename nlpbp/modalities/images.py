"""Images as the modality of a classifier."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from nlpbp import config as sections
from nlpbp.core.batch import LossFn
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import Examples
from nlpbp.data.decoding import nearest
from nlpbp.data.modality import Answer, Array, Card, MakeBatches, Modality, Reader, StageData
from nlpbp.data.packaged import packaged_digits
from nlpbp.data.parts import Inputs, Part, load_inputs, targets_of
from nlpbp.data.readers import Table
from nlpbp.data.sources import is_hub_id, read_source
from nlpbp.data.tiny import tiny_shapes
from nlpbp.evaluation.errors import quartiles
from nlpbp.runs.audit import audit_images
from nlpbp.runs.diagnosis import label_columns, wrong_record
from nlpbp.runs.folder import CACHE, Run
from nlpbp.runs.inputs import check_labels, the_same_everywhere
from nlpbp.runs.model_folder import save_model
from nlpbp.tasks.task import get_task
from nlpbp.vision.augment import PRESETS, Preset, mixed_images_loss
from nlpbp.vision.images import MAX_PIXELS, Pixels
from nlpbp.vision.pictures import Pictures, collate_pictures, mirrored, picture_steps, prepare_pictures, seen_otherwise, with_size
from nlpbp.vision.pretrained import channels_of, load_processor, load_trained_image_classifier
from nlpbp.vision.residual import ResidualConfig
from nlpbp.vision.sources import IMAGE, ImageStore, StoredImage, image_table, pixels_of

PACKAGED = {"demo:digits": packaged_digits, "tiny:shapes": tiny_shapes}
LARGEST = 64  # pixels a side that a net from scratch is given, unless it is told otherwise
THUMBNAIL = 96  # pixels of the longer side of an image in the report
FEATURES = 16  # cells a side that the linear baseline sees a picture in
BLOCK = 1024  # pictures
EVALUATION_IMAGES = 128  # a batch of new images
NUM_AUGMENTED = 4  # augmentations of each image, for one view


def load_images(run: Run[sections.ImageClassifierSettings]) -> tuple[Inputs, ImageStore]:
    """Read the sources that the settings name, split what is not split, and return with the parts all images by digest.

    Raises `DataError` with the place of an image that is missing, is none, or is too large.
    """
    store: ImageStore = {}
    data = run.settings.data

    def read(source: Any, *, split: str, delimiter: str | None) -> Table:
        table, images = read_images(source, split=split, column=data.image, delimiter=delimiter, max_pixels=data.max_pixels)
        for digest, one in images.items():
            store.setdefault(digest, one)
        return table

    inputs = the_same_everywhere(run, lambda: load_inputs(data, read=read))
    if inputs.fields.target_type == "continuous":
        hint = "name the column of classes with --data.label, or say --data.task single_label if the numbers are names"
        raise DataError("numbers are not predicted from images", file=str(data.train)[:200], column=inputs.fields.label, hint=hint)
    check_labels(run, inputs, data.label_order)
    audit_images(run, inputs, store)
    return inputs, store


def say_what_is_seen(run: Run[Any], store: ImageStore, *, channels: int, size: int) -> None:
    """Say at which size the net sees the images, and what of them it does not see."""
    lost = "; their colours are lost, for the net sees grey" if channels < num_channels(store) else ""
    run.say(f"images: {'grey' if channels == 1 else 'colours'}, seen in {size} x {size} pixels{lost}")
    middle = np.mean([min(one.height, one.width) / max(one.height, one.width) for one in store.values()])
    if middle < 0.9:
        run.say(f"their middle squares alone are seen: {1 - middle:.0%} of the pixels are left out")


def read_images(
    source: Any, *, split: str, column: str | None = None, delimiter: str | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[Table, ImageStore]:
    """Read a folder, a file, a packaged set, a hub id, or data given in memory."""
    if isinstance(source, str) and source.startswith(("demo:", "tiny:")):
        if source not in PACKAGED:
            hint = nearest(source, list(PACKAGED), kind="source")
            raise ConfigError("there are no such packaged images", excerpt=source, hint=hint)
        table, store = image_table(PACKAGED[source](), column=column, max_pixels=max_pixels)
        named = Table(source, table.columns, table.rows, notes=())
        return named, store
    given = read_source(source, split=split, delimiter=delimiter) if is_hub_id(source) else source
    return image_table(given, column=column, delimiter=delimiter, max_pixels=max_pixels)


def stored_images(part: Part, store: ImageStore) -> list[StoredImage]:
    """Return the images of a part, in its order; its `texts` are their digests."""
    return [store[digest] for digest in part.examples.texts]


def own_size(images: Mapping[str, StoredImage]) -> int:
    """Return the side of a net's pictures: the images' own where all are small squares of one size, else 64 pixels."""
    sizes = {(one.height, one.width) for one in images.values()}
    ((height, width), *others) = sizes
    return height if not others and height == width and height <= LARGEST else LARGEST


def num_channels(images: Mapping[str, StoredImage]) -> int:
    """Return 1 for images that are all grey, else 3."""
    return 1 if all(one.is_grey for one in images.values()) else 3


@dataclass(frozen=True)
class PreparedImages:
    """The images of a run: in a store by digest, and how a model with `channels` sees them through its `processor`.

    Pictures of a part and a size are prepared when they are first asked for.
    """

    run: Run[sections.ImageClassifierSettings]
    inputs: Inputs
    store: ImageStore
    processor: Any
    channels: int
    prepared: dict[tuple[str, int | None], Pictures] = field(default_factory=dict)

    def pictures(self, name: str, size: int | None = None) -> Pictures:
        """Return a part's pictures, in the processor's size or in another one."""
        part = {"train": self.inputs.train, **self.inputs.scored}[name]
        if (name, size) not in self.prepared:
            with self.run.accelerator.main_process_first():
                self.prepared[name, size] = prepare_pictures(
                    stored_images(part, self.store),
                    processor=self.processor if size is None else with_size(self.processor, size),
                    num_channels=self.channels,
                    max_pixels=self.run.settings.data.max_pixels,
                    cache=CACHE / "pictures",
                    show_progress=self.run.accelerator.is_main_process,
                )
        return self.prepared[name, size]


def image_modality(images: PreparedImages, *, model: PreTrainedModel, base_model: str) -> Modality:
    """Return how images are trained on, scored and saved: brought to the processor's size, or in a stage to the stage's own."""
    settings, inputs = images.run.settings, images.inputs
    refuse_mix_settings(settings.augment)
    parts = {name: images.pictures(name) for name in ("train", *inputs.scored)}
    processor = json.dumps(images.processor.to_dict(), sort_keys=True, default=str)
    return Modality(
        kind="image",
        parts=parts,
        collate=collate_pictures,
        max_cost=settings.batch.evaluation_size,
        stage=partial(_stage_examples, images),
        mix=partial(_mixed, augment=settings.augment),
        identity={"data": inputs.fingerprint, "labels": json.dumps(inputs.labels), "processor": processor},
        save=partial(_save, images),
        errors=partial(_errors, images, parts["validation"]),
        baselines=lambda: {"pixels": linear_of_pixels(inputs, parts)},
        card=image_card(
            parts["validation"],
            base_model,
            task=inputs.fields.task,
            registered=model.config.model_type == ResidualConfig.model_type,
        ),
        min_examples=2,  # batch normalisation needs two values
    )


def _stage_examples(images: PreparedImages, wanted: StageData) -> tuple[Pictures, MakeBatches]:
    """Return the training images of a stage, and what makes batches of them."""
    of_stage = images.pictures("train", wanted.image_size)
    return of_stage, partial(picture_steps, pictures=of_stage, views=PRESETS[images.run.settings.augment.preset])


def _mixed(loss_fn: LossFn, *, augment: sections.ImageAugment) -> LossFn:
    return loss_fn if augment.mix is None else mixed_images_loss(loss_fn, kind=augment.mix, alpha=augment.alpha)


def _save(images: PreparedImages, plain: Any, state: dict[str, Tensor], folder: Path, card: str) -> None:
    plain.config.views = images.run.settings.augment.preset
    save_model(plain, images.processor, state, folder=folder, card=card)


def _errors(images: PreparedImages, pictures: Pictures, outputs: Array, answer: Answer) -> dict[str, Any]:
    """Make errors.json from the validation set's probabilities."""
    settings, digests = images.run.settings, images.inputs.validation.examples.texts
    return image_error_record(
        images.inputs,
        outputs,
        pictures,
        image_of=lambda index: pixels_of(images.store[digests[index]], max_pixels=settings.data.max_pixels),
        by=settings.data.slices,
        with_images=settings.report.texts != "none",
    )


def refuse_mix_settings(augment: sections.ImageAugment) -> None:
    """Raise `ConfigError` for a setting of mixed images without mixing."""
    if augment.mix is None and augment.alpha != sections.ImageAugment().alpha:
        raise ConfigError("has no effect without mixing", column="augment.alpha", hint="add --augment.mix mixup")


def image_error_record(
    inputs: Inputs,
    outputs: Array,
    pictures: Pictures,
    *,
    image_of: Callable[[int], Pixels],
    by: tuple[str, ...],
    with_images: bool,
) -> dict[str, Any]:
    """Make `errors.json` of the validation set: the surest errors with their images, what is confused, where errors gather."""
    light = [round(float(one.mean())) for one in pictures.pixels]
    contrast = [round(float(one.std())) for one in pictures.pixels]
    columns = {"brightness": quartiles(light), "contrast": quartiles(contrast)}

    def shown(index: int, _: int) -> dict[str, Any]:
        return {"image": thumbnail(image_of(index))} if with_images else {}

    return wrong_record(inputs, outputs, columns | label_columns(inputs.validation.examples, inputs.fields), by=by, shown=shown)


def thumbnail(pixels: Pixels) -> str:
    """Return an image as a small PNG, in base64; a tiny one with its pixels enlarged, so that they can be seen."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    share = THUMBNAIL / max(image.size)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.NEAREST if share > 1 else Image.Resampling.BICUBIC).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def linear_of_pixels(inputs: Inputs, parts: Mapping[str, Pictures]) -> dict[str, Array]:
    """Return the outputs, by part, of a linear model that sees each picture in 16 x 16 cells."""
    from nlpbp.tasks.baselines import linear_baseline

    train, *others = (cells_of(parts[name]) for name in ("train", *inputs.scored))
    outputs = linear_baseline(inputs.fields.task, train, targets_of(inputs.train), others, num_labels=len(inputs.labels))
    return dict(zip(inputs.scored, outputs, strict=True))


def cells_of(pictures: Pictures) -> Array:
    """Return the mean of each cell of each picture, from 0 to 1, [n, channels * cells]."""
    side = min(FEATURES, *pictures.pixels.shape[2:])
    blocks = [pictures.pixels[start : start + BLOCK] for start in range(0, len(pictures), BLOCK)]
    means = [F.adaptive_avg_pool2d(torch.from_numpy(np.array(block)).float() / 255.0, side).flatten(1).numpy() for block in blocks]
    return np.concatenate(means)


def image_card(pictures: Pictures, base_model: str, *, task: str, registered: bool) -> Card:
    """Return what the card of an image classifier says; a net of ours needs an import first."""
    height, width = pictures.pixels.shape[2:]
    lines = [
        *(["import nlpbp.vision  # makes transformers know nlpbp_residual"] if registered else []),
        "from transformers import pipeline",
        'classify = pipeline("image-classification", model="PATH/TO/THIS/FOLDER")',
        *get_task(task).usage('"image.png"', ""),
    ]
    return Card(base_model, lines, "", f"It sees an image in {height} x {width} pixels, its middle if it is not square.")


def refuse_sizes(stages: Sequence[sections.ImageStage], model: PreTrainedModel) -> None:
    """Raise `ConfigError` for images of another size than a model with positions was made for."""
    config: Any = model.config
    made_for = getattr(config, "image_size", None)
    has_positions = any("position_embedding" in name for name, _ in model.named_parameters())
    for stage in stages:
        if stage.size is not None and has_positions and stage.size != made_for:
            message = f"{stage.size} pixels: the model has positions for {made_for}"
            raise ConfigError(message, column="stages.size", hint="leave it out, or take a convolutional net")
        if stage.size is not None:
            try:
                with torch.inference_mode():
                    model.eval()(torch.zeros(1, channels_of(model), stage.size, stage.size))
            except RuntimeError as error:
                message = f"{stage.size} pixels are too few for the model: {str(error).splitlines()[0]}"
                raise ConfigError(message, column="stages.size", hint="take larger ones") from error


def load_trained_model(folder: Path) -> tuple[PreTrainedModel, Reader] | None:
    """Load a saved image classifier, and how it reads new images: as they are, in a mirror, or as training saw them.

    Returns None for a folder without an image processor: its model reads something else.
    """
    if not (folder / "preprocessor_config.json").is_file():
        return None
    model = load_trained_image_classifier(str(folder))
    reader = Reader(
        kind="image",
        read=_read_new,
        forms=partial(_forms, model, load_processor(str(folder))),
        collate=collate_pictures,
        max_cost=EVALUATION_IMAGES,
        columns=(IMAGE,),
    )
    return model, reader


def _read_new(source: Any, split: str, columns: Sequence[str]) -> tuple[Table, dict[str, Any]]:
    """Read images as for training; the table holds digests, and with it go the images by digest."""
    return read_images(source, split=split, column=next(iter(columns), None))


def _forms(
    model: PreTrainedModel, processor: Any, examples: Examples, view: str | None, store: Mapping[str, StoredImage]
) -> Iterable[Pictures]:
    """Prepare new images, whose digests `examples.texts` are, as they are or as the view shows them."""
    pictures = prepare_pictures(
        [store[digest] for digest in examples.texts],
        processor=processor,
        num_channels=channels_of(model),
        max_pixels=MAX_PIXELS,
        show_progress=True,
    )
    if view is None:
        return [pictures]
    if view == "mirrored":
        return [mirrored(pictures)]
    preset: Preset = getattr(model.config, "views", None) or "none"
    if preset == "none":
        raise ConfigError("augmented: the model was trained without a preset", column="views", hint="leave it out")
    return (seen_otherwise(pictures, views=PRESETS[preset], seed=number) for number in range(NUM_AUGMENTED))
