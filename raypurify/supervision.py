"""Settings of what a robust training holds a network's features by, and of the images that it sees.

Each has a default under which a training is what it was before there was a choice, and is not written where it has
that: fits keep their fingerprints, bundles their bytes.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from raypurify.trees import SettingsModel

# The losses that hold features to their class.
OF_CLASSES = ("pcl", "center", "contrastive", "triplet")

Features = Annotated[int, Field(ge=0, le=65536)]
"""Features of a branch; 0: those that it finds."""


class SupervisionSettings(SettingsModel):
    """Settings of a semantic loss, of the branches that apply it in the depth of a network, and of the images.

    The losses are those of Mustafa et al., "Deeply supervised discriminative learning for adversarial defense", and the
    Mahalanobis pull of RSFP; see ``raypurify.training.semantic``. Each is weighed by ``alpha``.
    """

    semantic: Literal["mahalanobis", "pcl", "center", "contrastive", "triplet", "none"] = Field(
        "mahalanobis", description="mahalanobis: holds to the clusters of a fit; the others to classes; none: nothing"
    )
    push: float = Field(1e-4, ge=0, le=1, description="pcl: weight of the repulsion; 1, which diverges, is eq. 5's own")
    centres_lr: float = Field(0.5, gt=0, description="pcl, center: learning rate of the centres, eq. 12's α")
    margin: float = Field(1.0, gt=0, description="contrastive, triplet: the margin m of eq. 14 and 15")
    latents: bool = Field(True, description="whether the semantic loss holds R(x), besides what it holds in branches")
    branches: tuple[int, ...] = Field(
        (), description="groups of layers, from 1, behind each of which a branch has cross-entropy and semantic loss"
    )
    branch_dim: Features | tuple[Features, ...] = Field(
        512,
        description="features that a branch maps a group's pooled output to, 0: no map; one for all, or of each branch",
    )
    warm_up: int = Field(0, ge=0, description="first so many epochs by cross-entropy on clean images alone")
    images: Literal["attacked", "clean", "both"] = Field(
        "attacked", description="what a step learns from; both: clean and attacked images as one batch"
    )
    eps_from: float | None = Field(
        None, gt=0, description="ε of each batch is drawn uniformly from here up to attack.eps; null: it is attack.eps"
    )

    @property
    def branch_dims(self) -> dict[int, int]:
        """The features of each branch by its group, 0 for those that it finds there.

        >>> SupervisionSettings(semantic="pcl", branches=(2, 3), branch_dim=(512, 0)).branch_dims
        {2: 512, 3: 0}
        """
        each = self.branch_dim if isinstance(self.branch_dim, tuple) else (self.branch_dim,) * len(self.branches)
        return dict(zip(self.branches, each))

    @model_serializer(mode="wrap")
    def _unsaid(self, write: Any) -> dict[str, Any]:
        fields = SupervisionSettings.model_fields
        default = {name for name, field in fields.items() if getattr(self, name) == field.default}
        return {name: value for name, value in write(self).items() if name not in default}

    @model_validator(mode="after")
    def _applied(self) -> "SupervisionSettings":
        if len(set(self.branches)) < len(self.branches) or min(self.branches, default=1) < 1:
            raise ValueError(f"branches are {list(self.branches)}: give numbers of groups, from 1, each once")
        if isinstance(self.branch_dim, tuple) and len(self.branch_dim) != len(self.branches):
            raise ValueError(
                f"branch_dim is {list(self.branch_dim)} for branches {list(self.branches)}: give one of each, or one"
            )
        if self.branches and self.semantic == "mahalanobis":
            raise ValueError(
                "branches have no clusters that mahalanobis could pull to: "
                f"set semantic to {', '.join(OF_CLASSES)}, or none for cross-entropy alone"
            )
        if not self.latents and not self.branches:
            raise ValueError("latents is false and there are no branches, so that nothing is held: set one of them")
        return self


def in_own_latents(chosen: str | None, semantic: str, alpha: float) -> bool:
    """Whether a bundle looks for an image's cluster in the robust network's own latents: by ``clusters.latents``, or
    where that leaves it open, unless ``robust.semantic`` is a pull to the clusters in the baseline's, and its weight
    ``robust.alpha`` is above 0.

    >>> in_own_latents(None, "mahalanobis", 0.05), in_own_latents(None, "pcl", 0.05)
    (False, True)
    >>> in_own_latents(None, "mahalanobis", 0.0), in_own_latents("baseline", "mahalanobis", 0.0)
    (True, False)
    """
    return chosen == "robust" if chosen else semantic != "mahalanobis" or not alpha
