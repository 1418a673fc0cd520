"""Learning without labels: parts of an image are hidden, and the encoder learns to say what was there.

Sources: He et al., masked autoencoders, arXiv 2111.06377 (the target of normalised patches: section 3; no augmentation
but the crop: section 4.1), and Xie et al., SimMIM, arXiv 2111.09886 (section 3: a learned token where something is
hidden, one linear layer as decoder, absolute difference on what is hidden). As SimMIM, and unlike the masked
autoencoder, the encoder sees all words with the token in the hidden ones' place: this keeps the encoder's own code for
vision transformers and shifted windows alike, and costs the time that leaving them out would save. Differs from both:
images have three axes; where a net begins with convolutions that overlap (TransUNet), voxels are replaced instead of
words, by one learned value a channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.errors import TrainingError
from segwise.geometry import Array
from segwise.nets.planned import Maskable, PlannedNet, stored
from segwise.segmenter import Frame
from segwise.training.contract import Measures, Recipe
from segwise.training.labelled import Budget, Save
from segwise.training.patches import Patch, Patches, cut, spread
from segwise.training.prepared import Prepared

CHECKED = 12  # patches of the learning curve
FLAT = 1e-6  # added to a variance before its root is taken, as the masked autoencoder's code does
Target = Literal["voxels", "normalised"]


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What is hidden, and what is to be said of it.

    Attributes:
        ratio: share of the cubes that is hidden, above 0 and below 1; the nearest whole number of them is.
        target: "voxels" as the frame prepared them, or "normalised": of every hidden cube and channel the mean is
            taken away and its standard deviation divided by.
        unit: sides of a cube in voxels; 0 for the net's own.
    """

    ratio: float = 0.6
    target: Target = "normalised"
    unit: int = 0


class MaskedNet(nn.Module):
    """A net whose encoder completes images, with a token for what is hidden and a decoder that is thrown away.

    Args:
        net: the specialist; what is not of its encoder is frozen.
        channels: of the image.

    Raises:
        TrainingError: its encoder cannot be trained so.
    """

    def __init__(self, net: PlannedNet, channels: int) -> None:
        super().__init__()
        how = maskable(net)
        self.net, self.channels, self.coarse = net, channels, how.coarse
        self.token = nn.Parameter(torch.zeros(how.size))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.decoder = nn.Conv3d(how.width, channels * how.coarse**3, 1)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.startswith(how.prefixes))

    def features(self, image: Tensor, hidden: Tensor) -> Tensor:
        """The encoder's last features of an image of which cubes are hidden.

        Args:
            image: [B, C, D, H, W].
            hidden: bool [B, d, h, w]: cubes of equal sides that fill the image.

        Returns:
            [B, width, D / coarse, …]; what is hidden of the image changes nothing in it.
        """
        how = maskable(self.net)
        if how.words is None:
            return how.deep(self._covered(image, hidden))
        handle = how.words.register_forward_hook(lambda _module, _given, words: self._covered(words, hidden))
        try:
            return how.deep(image)
        finally:
            handle.remove()

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        """As `features` -> float32 [B, C, D, H, W]: what the net takes all voxels for."""
        flat = self.decoder(self.features(image, hidden)).float()  # [B, C * coarse^3, d, h, w]
        b, _, d, h, w = flat.shape
        n = self.coarse
        parts = flat.reshape(b, self.channels, n, n, n, d, h, w)
        parts = parts.permute(0, 1, 5, 2, 6, 3, 7, 4)
        return torch.as_tensor(parts.reshape(b, self.channels, d * n, h * n, w * n))

    def encoder(self) -> dict[str, Tensor]:
        """The encoder's tensors by the names that the specialist has for them."""
        prefixes = maskable(self.net).prefixes
        return {name: value for name, value in stored(self.net).items() if name.startswith(prefixes)}

    def _covered(self, words: Tensor, hidden: Tensor) -> Tensor:
        where = widened(hidden, words.shape[2:])[:, None]
        return torch.where(where, self.token.to(words.dtype)[None, :, None, None, None], words)


class Masked:
    """The objective.

    Args:
        net: see there.
        frame: of the specialist.
        masking: see there.
        held: cases of the validation subjects; () for no learning curve.
        seed: of the places and the hidden cubes of the curve.

    Raises:
        TrainingError: no such masking of the frame's patches.
    """

    def __init__(
        self,
        net: MaskedNet,
        frame: Frame[Any],
        masking: Masking,
        *,
        held: Sequence[Prepared] = (),
        seed: int = 0,
    ) -> None:
        self.net: MaskedNet = net
        self.frame, self.masking, self._seed = frame, masking, seed
        self.cubes = cubes(masking, frame.shape, maskable(net.net))
        self._checked = spread(held, frame.shape, CHECKED, seed)

    def losses(self, batch: Sequence[Patch], rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """One step a batch; which cubes are hidden is drawn anew for each patch."""
        hidden = np.stack([drawn(self.cubes, self.masking.ratio, rng) for _ in batch])
        yield self._loss(np.stack([patch.image for patch in batch]), hidden), {}

    def validate(self) -> Measures:
        """The loss on some patches of the validation subjects, the same cubes hidden every time."""
        rng = np.random.default_rng([self._seed, 78])
        found = []
        for case, centre in self._checked:
            image, _ = cut(case, self.frame, centre, self.frame.shape)
            found.append(float(self._loss(image[None], drawn(self.cubes, self.masking.ratio, rng)[None])))
        return {"loss": float(np.mean(found))} if found else {}

    def _loss(self, image: Array, hidden: Array) -> Tensor:
        device = self.net.token.device
        shown, where = torch.tensor(image).to(device), torch.from_numpy(hidden).to(device)
        wanted = normalised(shown, self.cubes) if self.masking.target == "normalised" else shown
        return missed(self.net(shown, where), wanted, where)


def recipe(
    name: str,
    net: PlannedNet,
    frame: Frame[Any],
    masking: Masking,
    train: Sequence[Prepared],
    valid: Sequence[Prepared],
    budget: Budget,
    save: Save,
    note: str,
) -> Recipe:
    """The training of an encoder on unlabelled cases.

    Args:
        name: of the model.
        net: untrained.
        frame: prepared the cases.
        masking: see there.
        train, valid: cases of subjects that share nobody.
        budget: its loss and its augmentation are not used.
        save: writes the folder; gets a `MaskedNet`.
        note: on what it is trained.

    Raises:
        TrainingError: no case, an encoder that cannot be trained so, or no such masking.
    """
    stream = Patches(tuple(train), frame, size=budget.size, seed=budget.seed, augment=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)
        whole = MaskedNet(net, len(train[0].channels))
    objective = Masked(whole, frame, masking, held=valid, seed=budget.seed)
    return Recipe(name=name, objective=objective, stream=stream, settings=budget.settings(), save=save, note=note)


def cubes(masking: Masking, patch: Sequence[int], how: Maskable) -> tuple[int, int, int]:
    """How many cubes a patch has along each axis.

    Raises:
        TrainingError: no such target or ratio, cubes that words or the patch do not fit, or a ratio that hides nothing
            or everything of so few cubes.
    """
    unit = masking.unit or how.unit
    if masking.target not in get_args(Target):
        raise TrainingError(f'the target is "{masking.target}", expected {" or ".join(get_args(Target))}')
    if not 0 < masking.ratio < 1:
        raise TrainingError(f"the mask ratio is {masking.ratio:g}, expected a share above 0 and below 1, such as 0.6")
    sides = "×".join(map(str, patch))
    if unit < 1 or unit % how.stride or any(n % unit for n in patch):
        raise TrainingError(
            f"hidden cubes have sides of {unit} voxels; expected a multiple of {how.stride} that divides the patch, "
            f"{sides}"
        )
    d, h, w = (n // unit for n in patch)
    if not 0 < round(masking.ratio * d * h * w) < d * h * w:
        raise TrainingError(
            f"a mask ratio of {masking.ratio:g} hides {round(masking.ratio * d * h * w)} of the {d * h * w} cubes of "
            f"{unit} voxels in a patch of {sides}; expected one at least and not all: take another ratio or smaller "
            "cubes"
        )
    return d, h, w


def drawn(shape: tuple[int, int, int], ratio: float, rng: np.random.Generator) -> Array:
    """bool [d, h, w]: which cubes are hidden; always the whole number nearest to that share of them."""
    hidden = np.zeros(prod(shape), dtype=bool)
    hidden[rng.permutation(len(hidden))[: round(ratio * len(hidden))]] = True
    return hidden.reshape(shape)


def widened(hidden: Tensor, shape: Sequence[int]) -> Tensor:
    """bool [B, d, h, w] -> bool [B, *shape], each cube repeated over its part."""
    for axis, n in enumerate(shape, start=1):
        hidden = hidden.repeat_interleave(n // hidden.shape[axis], dim=axis)
    return hidden


def normalised(image: Tensor, cubes: Sequence[int]) -> Tensor:
    """[B, C, D, H, W], in each cube and channel with mean 0 and deviation 1; a flat cube becomes 0.

    Args:
        image: the image.
        cubes: how many along each axis.
    """
    b, c, *sides = image.shape
    d, h, w = cubes
    p, q, r = (n // k for n, k in zip(sides, cubes, strict=True))
    parts = image.float().reshape(b, c, d, p, h, q, w, r)
    inside = (3, 5, 7)
    mean = parts.mean(dim=inside, keepdim=True)
    spread = parts.var(dim=inside, keepdim=True, correction=0)
    return ((parts - mean) / (spread + FLAT).sqrt()).reshape(image.shape)


def missed(said: Tensor, wanted: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute difference on what is hidden: scalar.

    Args:
        said, wanted: [B, C, D, H, W].
        hidden: bool [B, d, h, w], somewhere True.
    """
    where = widened(hidden, said.shape[2:])[:, None]
    apart = F.l1_loss(said.float(), wanted.float(), reduction="none")
    return (apart * where).sum() / (where.sum() * said.shape[1])


def maskable(net: PlannedNet) -> Maskable:
    """How a net's encoder sees what is hidden.

    Raises:
        TrainingError: it cannot.
    """
    how = net.maskable()
    if how is None:
        raise TrainingError(
            f"the encoder of {net.origin.get('name', 'this net')} cannot be pre-trained here; expected a transformer, "
            "such as unetr, swin-unetr or transunet"
        )
    return how


def take(net: PlannedNet, tensors: Mapping[str, Tensor], source: Path) -> int:
    """Fill a net's encoder; how many tensors were taken: all of them.

    Args:
        net: fresh.
        tensors: by the net's own names.
        source: where they come from, for the message.

    Raises:
        TrainingError: they are not just its encoder's, in name and shape.
    """
    prefixes = maskable(net).prefixes
    own = {name: value for name, value in stored(net).items() if name.startswith(prefixes)}
    odd = sorted(
        name
        for name in {*own, *tensors}
        if getattr(own.get(name), "shape", 0) != getattr(tensors.get(name), "shape", 1)
    )
    if odd:
        raise TrainingError(
            f"{source} does not fit the encoder of {net.origin.get('name', 'this net')}: {len(odd)} tensors differ, "
            f"first {odd[0]}; expected a folder that segwise pretrain wrote for the same model and arguments"
        )
    net.load_state_dict(dict(tensors), strict=False)
    return len(tensors)
