"""Builds the parts of one experiment from its config, for training."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from dcjax import losses
from dcjax.core import streams
from dcjax.core.errors import file_errors
from dcjax.core.streams import DeviceStream
from dcjax.data import datasets
from dcjax.distributed import devices
from dcjax.division.division import Division
from dcjax.experiment import parts
from dcjax.experiment.network import Network
from dcjax.experiment.readers import Readers
from dcjax.experiment.schedule import Schedule
from dcjax.models import pretrained
from dcjax.training import state, steps

Weights = tuple[dict[str, Any], dict[str, Any]]  # parameters and running statistics


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """The parts of one experiment, for training; each is created when it is first used.

    Attributes:
      config: see configs/default.py.
      mesh: the devices.
      splits: the image sets.
    """

    config: ConfigDict
    mesh: Mesh
    splits: datasets.Splits

    @functools.cached_property
    def network(self) -> Network:
        """The network, with its embeddings and scores."""
        return Network(self.config, self.mesh, self.splits.query.num_features)

    @functools.cached_property
    def readers(self) -> Readers:
        """The readers of the image sets."""
        return Readers(self.network, self.splits)

    @functools.cached_property
    def loss(self) -> losses.Loss:
        """The metric-learning loss."""
        return parts.create_loss(self.config, self.splits.train.class_sizes)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer of all parameter groups."""
        return parts.create_optimizer(self.config.optimizer, self.config.model.backbone)

    @functools.cached_property
    def schedule(self) -> Schedule:
        """What each epoch does."""
        return Schedule(self.config)

    @functools.cached_property
    def abstract_state(self) -> state.TrainState:
        """The training state as shapes, types and shardings; nothing is drawn or compiled."""
        shapes = jax.eval_shape(lambda: self._draw_state(None))
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            state.shardings(shapes, self.mesh),
        )

    @functools.cached_property
    def train_step(self) -> Callable[..., tuple[state.TrainState, steps.Metrics]]:
        """The compiled step (state, batch, controls, key) -> (state, metrics).

        The buffers of the state are donated. Lambda of P21 eq. 7 is 0 for masks that are not
        learned.
        """
        shardings = self._state_shardings()
        learned = self.config.model.masks == "learned"
        step = functools.partial(
            steps.train_step,
            model=self.network.model,
            loss=self.loss,
            optimizer=self.optimizer,
            orthogonality_weight=self.config.model.orthogonality_weight if learned else 0.0,
            schedule=parts.create_rates(self.config.optimizer, self.config.train.num_epochs),
            average_decay=self.config.train.ema_decay,
        )
        return jax.jit(
            step,
            in_shardings=(shardings, self.batch_shardings, self.replicated, self.replicated),
            out_shardings=(shardings, self.replicated),
            donate_argnums=0,
        )

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of replicated arrays."""
        return devices.replicated(self.mesh)

    @property
    def batch_shardings(self) -> dict[str, NamedSharding]:
        """The shardings of a training batch."""
        return devices.batch_shardings(self.mesh)

    @functools.cached_property
    def training_key(self) -> jax.Array:
        """The key of all training steps, on every device."""
        key = functools.partial(streams.device_key, self.config.seed, DeviceStream.TRAINING)
        return jax.jit(key, out_shardings=self.replicated)()

    @functools.cached_property
    def enter_division(self) -> Callable[[state.TrainState, Division], state.TrainState]:
        """The function (state, division) -> state in a new division; see `state.create_enter`."""
        return state.create_enter(
            self.optimizer,
            self._state_shardings(),
            max_clusters=self.config.division.max_clusters,
            kind=self.config.model.masks,
        )

    def score_untrained(self, variables: dict[str, Any]) -> dict[str, dict[str, float]]:
        """Returns the scores of a network before training, by name.

        They are those of its pooled features, of the validation classes too, and of the pixels if
        these are wanted.
        """
        network, readers, scores = self.network, self.readers, {}
        if self.config.eval.pixels:
            has_features = parts.keeps_features(self.config.model)
            pixels = network.open_test(self.splits) if has_features else readers.test
            scores["raw pixels"] = network.score_pixels(pixels)
        scores["backbone features"] = network.score_backbone(readers.test, variables)
        if readers.validation is not None:
            scores["backbone features, validation classes"] = network.validate(
                readers.validation, variables, output="backbone"
            )
        return scores

    def load_pretrained(self, say: Callable[[str], None]) -> Weights | None:
        """Loads published weights of the backbone; None if training starts from random ones.

        Args:
          say: called with a line for each choice, see `pretrained.load`.
        """
        name, network = self.config.model.pretrained, self.network
        if not name:
            return None
        with file_errors(f"Cannot read model.pretrained={name!r}"):
            return pretrained.load(
                name,
                network.abstract_variables["params"]["backbone"],
                network.abstract_variables.get("batch_stats", {}).get("backbone", {}),
                download=self.config.dataset.download,
                statistics=network.model.statistics,
                say=say,
            )

    def create_state(self, weights: Weights | None) -> state.TrainState:
        """Draws the initial state, with these weights of the backbone if given."""
        return jax.jit(self._draw_state, out_shardings=self._state_shardings())(weights)

    def _draw_state(self, weights: Weights | None) -> state.TrainState:
        model = self.network.model
        fresh = state.create(
            model,
            self.loss,
            self.optimizer,
            key=self.network.initialization_key(),
            image_size=self.config.dataset.crop,
            memory_size=self.config.loss.memory_size,
            trained_modules=parts.trained_modules(self.config.model, model),
        )
        if weights is not None:
            params, statistics = weights
            fresh = fresh.replace(
                params={**fresh.params, "backbone": params},
                batch_stats={"backbone": statistics} if statistics else {},
            )
        return fresh.replace(average=fresh.network) if self.config.train.ema_decay else fresh

    def _state_shardings(self) -> state.TrainState:
        return jax.tree.map(lambda x: x.sharding, self.abstract_state)
