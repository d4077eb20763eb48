"""What a run works with: model, data, what trains, where its files go."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from data_pipelines.datasets import find_dataset
from data_pipelines.errors import UserError
from data_pipelines.feed import TrainFeed
from data_pipelines.prepare import prepare, prepared_path
from data_pipelines.provenance import left_out, read_provenance
from data_pipelines.split import Split, hold_out, load_split, split_names
from data_pipelines.terminal import table
from vop_jax.backbone import Backbone, load_backbone
from vop_jax.config import FREE_FIELDS, RunConfig
from vop_jax.dual_encoder import DualEncoder
from vop_jax.embedder import Embedder, score
from vop_jax.methods import count_trained, select, trained_leaves, trained_mask
from vop_jax.processes import main_first
from vop_jax.run_folder import RunFolder
from vop_jax.sharding import check_batch, make_mesh, put_tree
from vop_jax.tokenizer import load_tokenizer
from vop_jax.train_step import store_frozen


class Data(NamedTuple):
    """A data set ready for use.

    Attributes:
        splits: by name.
        ids: the token ids of their captions.
        provenance: what the shards were made of.
    """

    splits: dict[str, Split]
    ids: dict[str, np.ndarray]
    provenance: dict[str, Any]


def find_prepared(
    dataset: str, data_dir: str, num_frames: int, image_size: int
) -> epath.Path:
    """The shards of a data set with these frames, or with the fewest of more.

    The demo is rendered where it is missing.

    Raises:
        UserError: nothing is prepared.
    """
    path = prepared_path(dataset, data_dir, num_frames, image_size)
    row = find_dataset(dataset)
    if row.rendered:
        # One process renders, unless that has been done; the others wait for it.
        main_first(
            lambda: (
                path.is_dir()
                or prepare(
                    dataset, data_dir, num_frames=num_frames, image_size=image_size
                )
            )
        )
    if path.is_dir():
        return path
    stored = {
        int(count): other
        for other in epath.Path(data_dir).glob(f"*x{image_size}/{dataset}/{path.name}")
        if (count := other.parents[1].name.partition("x")[0]).isdigit()
    }
    more = [count for count in stored if count > num_frames]
    if more:
        return stored[min(more)]
    flags = "" if row.rendered else " --videos=DIR --annotations=DIR"
    for name, value, usual in (
        ("num_frames", num_frames, row.num_frames),
        ("image_size", image_size, row.image_size),
    ):
        flags += f" --{name}={value}" if value != usual else ""
    raise UserError(
        f"{path} is missing; run python -m data_pipelines.prepare "
        f"--dataset={dataset} --output={data_dir}{flags}"
    )


def load_data(
    dataset: str,
    data_dir: str,
    *,
    num_frames: int,
    image_size: int,
    tokenize: Callable[[list[str]], np.ndarray],
    splits: Sequence[str] = ("train", "validation", "test"),
    holdout: int = 500,
    train_on_holdout: bool = False,
    memory_gb: float = 32.0,
) -> Data:
    """Reads a prepared data set.

    Args:
        dataset: a row of the table of data sets.
        data_dir: where prepared data sets are.
        num_frames: F.
        image_size: pixels, of the prepared frames.
        tokenize: captions to token ids.
        splits: which are read.
        holdout: training videos that validation is made of where none is published.
        train_on_holdout: whether they are trained on as well.
        memory_gb: a split whose frames take more stays on disk.

    Raises:
        UserError: nothing is prepared, or there is no such split.
    """
    path = find_prepared(dataset, data_dir, num_frames, image_size)
    published = split_names(path)
    wanted = set(splits)
    held_out = "validation" not in published and bool(wanted & {"train", "validation"})
    if held_out:
        wanted = wanted - {"validation"} | {"train"}
    found = {
        name: load_split(path, name, num_frames, memory_gb * 2**30)
        for name in sorted(wanted)
    }
    if held_out:
        found |= hold_out(found["train"], holdout, train_on_holdout)._asdict()
    found = {name: found[name] for name in splits}
    ids = {name: tokenize(split.captions) for name, split in found.items()}
    return Data(found, ids, read_provenance(path))


def build_model(config: RunConfig, backbone: Backbone) -> DualEncoder:
    """The prompted model of a configuration.

    Raises:
        UserError: prompts that do not fit the backbone's layers.
    """
    prompts = config.prompts
    for tower in ("vision", "text"):
        layers = getattr(backbone.size, tower).layers
        if prompts.first_layer > layers:
            raise UserError(
                f"config.prompts.first_layer is {prompts.first_layer}, but the {tower} "
                f"tower has {layers} layers"
            )
    layers = backbone.size.vision.layers
    if prompts.split_layer > layers or prompts.last_layer > layers:
        raise UserError(
            f"config.prompts.split_layer ({prompts.split_layer}) and last_layer "
            f"({prompts.last_layer}) must be at most the vision tower's {layers} layers"
        )
    return DualEncoder(backbone.size, prompts, config.compute, config.renormalize_video)


def initial_variables(
    model: DualEncoder, backbone: Backbone, seed: int
) -> dict[str, Any]:
    """The backbone's weights and freshly drawn prompts."""
    size = backbone.size.image_size
    frames = jnp.zeros((1, model.prompt_config.num_frames, size, size, 3), jnp.uint8)
    ids = jnp.full((1, 2), backbone.size.eos_id)
    key = jax.random.key(seed)
    # Compiled, so that the backbone's random weights, which nobody asked for, are not
    # drawn at all.
    prompts = jax.jit(
        lambda key: model.init({"params": key, "prompts": key}, frames, ids).get(
            "prompts", {}
        )
    )(key)
    variables: dict[str, Any] = {"params": backbone.params}
    return variables | ({"prompts": prompts} if prompts else {})


class Run:
    """Everything a run holds between its parts.

    Args:
        config: its configuration.
        folder: where its files go.
        like: a run on the same backbone and data, which are then not read again.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, like: "Run | None" = None):
        self.config, self.folder = config, folder
        folder.check(config.as_json(), FREE_FIELDS)
        self.mesh = make_mesh(config.mesh)
        self.backbone = like.backbone if like else load_backbone(config.backbone_folder)
        self.model = build_model(config, self.backbone)
        self.data = like.data if like else self._load_data()
        variables = initial_variables(self.model, self.backbone, config.seed)
        self.mask = trained_mask(variables, config.row.trained)
        self.leaves = trained_leaves(variables, self.mask)
        self.trained_count = count_trained(variables, self.mask)
        frozen = select(variables, self.mask, trained=False)
        frozen = store_frozen(frozen, config.compute.dtype)
        self.frozen = put_tree(self.mesh, frozen)
        self.trainable = select(variables, self.mask, trained=True)
        self.results: dict[str, dict[str, Any]] = {}
        # Kept, so that each model compiles once for all splits and all validations.
        self._embedders: dict[tuple[DualEncoder, int | None], Embedder] = {}

    def _load_data(self) -> Data:
        config, size = self.config, self.backbone.size
        length = config.prompts.caption_length(size.context_length)
        return load_data(
            config.dataset,
            config.data_dir,
            num_frames=config.num_frames,
            image_size=size.image_size,
            tokenize=load_tokenizer(self.backbone.folder, size, length),
            holdout=config.holdout,
            train_on_holdout=config.train_on_holdout,
            memory_gb=config.memory_gb,
        )

    def feed(self) -> TrainFeed:
        """The training feed of this process.

        Raises:
            UserError: too few videos, or a batch that does not divide.
        """
        config = self.config
        check_batch(self.mesh, config.batch_size)
        return TrainFeed(
            self.data.splits["train"],
            self.data.ids["train"],
            batch_size=config.batch_size,
            seed=config.seed,
            group_size=config.group_size,
            epoch_of=config.epoch_of,
            augmentation=config.augmentation,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
        )

    def show_trained(self) -> None:
        """Prints what trains."""
        rows = [
            [path, "x".join(map(str, shape)), f"{count:,}"]
            for path, shape, count in self.leaves
        ]
        total = sum(x.size for x in jax.tree.leaves(self.frozen)) + self.trained_count
        share = 100 * self.trained_count / total
        rows.append(["all", f"{share:.3f}% of {total:,}", f"{self.trained_count:,}"])
        table(f"{self.config.method} trains", ["leaf", "shape", "numbers"], rows)

    def similarity(
        self, model: DualEncoder, variables: Any, split: str, frame: int | None = None
    ) -> np.ndarray:
        """Of a split's captions with its videos."""
        key = model, frame
        if key not in self._embedders:
            self._embedders[key] = Embedder(model, self.mesh, frame)
        return self._embedders[key].similarity(
            variables,
            self.data.splits[split],
            self.data.ids[split],
            self.config.evaluation_batch_size,
        )

    def scored(
        self, name: str, similarity: np.ndarray, trained: int, split: str = "test"
    ) -> dict[str, Any]:
        """What `results.json` holds of a model with that similarity."""
        return {
            "method": name,
            "dataset": self.config.dataset,
            **score(similarity, self.data.splits[split], self.config.ties),
            "left_out": left_out(self.data.provenance, split),
            "trainable_parameters": trained,
        }

    def record(self, name: str, similarity: np.ndarray, trained: int) -> None:
        """Scores a similarity on the test split under a name."""
        self.results[name] = self.scored(name, similarity, trained)

    def evaluate_untuned(self) -> np.ndarray:
        """Scores CLIP as it is, and on single frames where order is what counts."""
        model = DualEncoder(self.backbone.size, compute=self.config.compute)
        variables = {"params": put_tree(self.mesh, self.backbone.params)}
        similarity = self.similarity(model, variables, "test")
        self.record("zero_shot", similarity, 0)
        if "twins" in self.results["zero_shot"]:
            for name, frame in (("first_frame", 0), ("last_frame", -1)):
                alone = self.similarity(model, variables, "test", frame)
                self.record(name, alone, 0)
        return similarity
