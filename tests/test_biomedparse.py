"""BiomedParse: where things lie, what words mean to it, when it says "absent", and that no weight is lost."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import transform

import probes
from parity import biomedparse as parity_module
from parity.harness import Fixture
from segwise import weights
from segwise.errors import NoSuchStructure, PromptError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.worded import Worded
from segwise.models import _biomedparse as official_way
from segwise.models import biomedparse
from segwise.models.biomedparse import ParseFrame
from segwise.nets import biomedparse as nets
from segwise.nets import biomedparse_decoder as decoders
from segwise.nets import clip_text, focal
from segwise.nets.clip_text import CausalText, ClipTokenizer
from segwise.nets.contract import Decoded, Marks
from segwise.nets.flops import counted, parameters
from segwise.prompt import Box, Prompt, Text
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore

PLANES = ("axial", "coronal", "sagittal")
S = 64


def vocabulary(folder: Path, n: int = 300) -> Path:
    """A table of n words: letters, and the two special ones."""
    letters = [x + end for x in clip_text._letters()[:94] for end in ("", "</w>")]
    words = [*letters, *(f"~{i}" for i in range(n - 2 - len(letters))), clip_text.START, clip_text.END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> ClipTokenizer:
    return ClipTokenizer(vocabulary(tmp_path_factory.mktemp("words")))


def tiny() -> nets.BiomedParseNet:
    """A small net with weights drawn for every tensor."""
    config = {"embed_dim": 8, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "focal_levels": [2] * 4}
    flags = dict.fromkeys(("use_conv_embed", "use_post_layernorm", "normalize_modulator", "use_layerscale"), True)
    backbone = focal.FocalBackbone(focal.FocalNetConfig(**config, focal_windows=[3] * 4, **flags))
    size = {"mask_width": 32, "hidden": 16, "heads": 2, "width": 32}
    text = CausalText(vocabulary=300, length=40, width=16, layers=1, heads=2)
    predictor = decoders.Predictor(decoders.Language(text, width=32), queries=5, layers=4, incoming=32, **size)
    net = nets.BiomedParseNet(backbone, decoders.PixelDecoder([8, 16, 32, 64], layers=1, **size), predictor)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (0.2 if tensor.ndim > 1 else 0.5) + 0.1)
    return net.eval()


def model(tokenizer: ClipTokenizer, net: torch.nn.Module | None = None, **settings) -> Worded:
    frame = ParseFrame(tokenizer, 40, **{"size": S, **settings})
    return Worded(Parts(net or tiny(), frame, None, "random"))


def volume(modality: str = "CT", seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    affine = np.array([[0, 0, -2.0, 30], [0, 2.5, 0, -20], [4.0, 0, 0, 7], [0, 0, 0, 1]])
    image = rng.normal(60, 60, (4, 20, 24)).astype(np.float32)
    return Volume.of(image if modality == "CT" else np.abs(image), Grid((4, 20, 24), affine), (Channel(modality),))


def said(one: Worded, scan: Volume, *words: str):
    state = one.encode(scan, store=FeatureStore())
    return one.segment(state, [Ask(Prompt((Text(word),))) for word in words])


def company_of(ids: torch.Tensor, mask: torch.Tensor) -> Marks:
    """Queries of one view, given together."""
    zeros = torch.zeros(len(ids), dtype=torch.int64)
    return Marks(zeros, tokens={"ids": ids, "mask": mask, "company": zeros})


class WordProbe(probes.Probe):
    """Shows its image, or the words' length in every pixel."""

    def decode(self, features, marks):
        view = features[marks.image][:, :1]
        grey = view - (view.amin() + view.amax()) / 2
        sign = 1.0 if self.show == "image" else -1.0
        return Decoded((grey * sign).float())


# where things lie


@pytest.mark.parametrize("turn", ["upright", "stored"])
@pytest.mark.parametrize("axes", probes.orientations())
def test_in_every_orientation(tokenizer, axes, turn):
    where = probes.grid(axes)
    scan, mask = probes.scene(where)
    one = model(tokenizer, WordProbe("image"), plane=PLANES[(ord(axes[0]) + len(turn)) % 3], turn=turn)
    found = said(one, scan, "liver")[0].mask(where)
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_in_other_spacings_and_slants(tokenizer, plane, spacing, slant):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    scan, mask = probes.scene(where, slant=slant)
    one = model(tokenizer, WordProbe("image"), plane=plane, size=128)
    found = said(one, scan, "liver")[0].mask(where)
    assert probes.off_voxels(found, mask) <= 1


def test_a_mr_block_and_stored_slices(tokenizer):
    where = probes.grid("RAS")
    scan, mask = probes.scene(where, modality="MR")
    one = model(tokenizer, WordProbe("image"), turn="stored")
    assert one.encode(scan, store=FeatureStore()).volume.grid.axes == "SRA"
    assert probes.off_voxels(said(one, scan, "liver")[0].mask(where), mask) <= 1


def test_three_planes_are_fused(tokenizer):
    where = probes.grid("LPS")
    scan, mask = probes.scene(where)
    one = Orthogonal(model(tokenizer, WordProbe("image"), size=128).parts, lift=Worded)
    (answer,) = said(one, scan, "liver")
    assert probes.off_voxels(answer.mask(where), mask) <= 1 and answer.presence >= 0.5
    assert said(one, Volume.of(np.zeros(where.shape, dtype=np.int16), where), "liver")[0].absent


# one slice as the official readers make it


def test_a_square_ct_slice_is_windowed_scaled_and_cut():
    values = np.linspace(-500, 500, 30 * 30).reshape(30, 30)
    grey = (np.clip(values, -150, 250) + 150) / 400 * 255
    expected = transform.resize(grey, (S, S), order=3, mode="constant", preserve_range=True, anti_aliasing=True)
    image = official_way.slice_image(values, (-150.0, 250.0), size=S)
    assert image.dtype == np.uint8 and np.array_equal(image[..., 1], expected.astype(np.uint8))


def test_what_the_original_cannot_scale_is_black():
    for window in ((-150.0, 250.0), None):
        for values in (np.zeros((4, 7)), np.full((4, 7), -3.0), np.full((4, 7), np.nan)):
            assert not official_way.slice_image(values, window, size=S).any()
    values = np.linspace(0, 100, 28).reshape(4, 7)
    values[0, 3] = np.nan
    assert official_way.slice_image(values, None, size=S).any()


@pytest.mark.parametrize("shape", [(20, 31), (31, 20), (20, 20), (5, 9)])
def test_padding_comes_off_again(tokenizer, shape):
    frame = ParseFrame(tokenizer, 40, size=S)
    grid = Grid((1, *shape), np.eye(4))
    ramp = np.zeros((1, 1, 1, S // 4, S // 4), dtype=np.float32) + np.arange(S // 4)
    top, left = official_way.padding(*shape)
    assert frame.restore(ramp, grid).shape == (1, 1, 1, *shape)
    assert abs((shape[0] + 2 * top) - (shape[1] + 2 * left)) <= 1


# words


def test_synonyms_reach_the_words_of_training(tokenizer):
    frame = ParseFrame(tokenizer, 40, size=S)
    assert frame.known("IVC", "CT").sentence("CT") == "postcava in abdomen CT"
    assert frame.known("tumour of the liver", "CT").sentence("CT") == "tumor in liver CT"
    assert frame.known("LV", "MR").sentence("MR") == "left heart ventricle in heart MRI"
    a, b = frame.asked("postcava", modality="CT"), frame.asked("inferior vena cava", modality="CT")
    assert torch.equal(a.tokens["ids"], b.tokens["ids"])
    short = dataclasses.replace(frame, words="name").asked("IVC", modality="CT")
    assert torch.equal(short.tokens["ids"], tokenizer.ids(["postcava"], length=40).ids)


def test_every_listed_structure_is_known_and_the_list_is_complete(tokenizer):
    frame = ParseFrame(tokenizer, 40, size=S)
    listed = biomedparse.CARD.labels[""]
    assert set(listed) == {name for table in official_way.KNOWN.values() for name in table}
    assert all(frame.known(name, "") is not None for name in listed)
    assert set(official_way.KNOWN) == set(biomedparse.CARD.modalities)


def test_other_words_are_refused_or_asked_as_they_stand(tokenizer):
    one = model(tokenizer, WordProbe("image"))
    with pytest.raises(NoSuchStructure, match=r"hat rack.*open=true"):
        said(one, volume(), "hat rack")
    with pytest.raises(NoSuchStructure, match=r"near: .*lung"):
        said(one, volume(), "left lung")
    with pytest.raises(PromptError, match="name as text; came: box"):
        state = one.encode(volume(), store=FeatureStore())
        one.segment(state, [Ask(Prompt((Box.of(volume().grid, (0, 0, 0), (1, 2, 2)),)))])
    other = ParseFrame(tokenizer, 40).known("myocardium", "CT")
    assert other.sentence("CT") == "myocardium in heart CT" and not other.image
    opened = ParseFrame(tokenizer, 40, open=True).asked("hat rack", modality="CT")
    assert torch.equal(opened.tokens["ids"], tokenizer.ids(["hat rack"], length=40).ids)


# presence


def test_nothing_painted_is_absent(tokenizer):
    flat = Volume.of(np.zeros((3, 8, 8), dtype=np.float32), Grid((3, 8, 8), np.eye(4)), (Channel("CT"),))
    (answer,) = said(model(tokenizer, WordProbe("image")), flat, "liver")
    assert answer.absent and not answer.mask(flat.grid).any()


def test_presence_is_told_by_slice_and_by_volume(tokenizer):
    scan, mask = probes.scene(probes.grid("SPL"))
    one = model(tokenizer, WordProbe("image"))
    state = one.encode(scan, store=FeatureStore())
    asks = [Ask(Prompt((Text(word),))) for word in ("liver", "spleen")]
    by_slice = one.presence_by_slice(state, asks)
    assert by_slice.shape == (2, scan.grid.shape[0])
    assert np.array_equal(by_slice[0] >= 0.5, mask.any(axis=(1, 2)))
    assert one.segment(state, asks)[0].presence == by_slice[0].max()
    assert one.segment(state, []) == [] and one.presence_by_slice(state, []).shape == (0, by_slice.shape[1])


def test_likeness_is_the_product_of_four_tests():
    image = np.full((8, 8, 3), 64, dtype=np.uint8)
    probability = np.zeros((8, 8))
    probability[:4] = 0.8
    uniform = [(1, 1)] * 4  # the distribution function is the identity
    p = np.prod([2 * min(x, 1 - x) for x in (0.8 * 255 / 256, 0.25, 0.25, 0.25)])
    assert official_way.likeness(image, probability, uniform) == pytest.approx(p**0.25)
    assert official_way.likeness(image, probability * 0.6, uniform) == 0.0


def test_a_structure_unlike_its_distribution_is_absent(tokenizer):
    scan, _ = probes.scene(probes.grid("SPL"))
    for beta, there in (([[1, 1]] * 4, True), ([[1, 1], *[[1, 90]] * 3], False)):
        one = model(tokenizer, WordProbe("image"), distributions={"CT-Abdomen": {"liver": beta}}, p_value=0.02)
        liver, spleen = said(one, scan, "liver", "spleen")
        assert liver.absent is not there
        assert liver.mask(scan.grid).any() == there and not spleen.absent


# company and purity


def test_a_target_is_asked_alone_unless_all_are_asked_together(tokenizer):
    net = tiny()
    words = ("liver", "left kidney", "IVC")
    alone = model(tokenizer, net)
    each = [said(alone, volume(), word)[0] for word in words]
    for one, other in zip(said(alone, volume(), *words), each, strict=True):
        assert np.array_equal(one.logits, other.logits) and one.presence == other.presence
    frame, state = alone.parts.frame, alone.encode(volume(), store=FeatureStore())
    (features,) = alone.features(state, [0])
    company = dataclasses.replace(frame, joint=True)
    marks = [company.asked(word, modality="CT") for word in words]
    ids, mask = (torch.cat([m.tokens[key] for m in marks]) for key in ("ids", "mask"))
    with torch.no_grad():
        together = net.decode(features, company_of(ids, mask))
        said_together = net.grounded(features, ids, mask)
        single = net.decode(features, frame.asked(words[0], modality="CT"))
    assert torch.equal(together.logits[:, 0, 0], said_together.masks[said_together.matched])
    assert (together.logits[0] - single.logits[0]).abs().max() > 1e-3


def test_equal_texts_of_a_company_are_one_prompt(tokenizer):
    one = model(tokenizer, joint=True)
    a, b, c = said(one, volume(), "IVC", "postcava", "liver")
    d, e = said(one, volume(), "IVC", "liver")
    assert np.array_equal(a.logits, b.logits) and np.array_equal(a.logits, d.logits)
    assert np.array_equal(c.logits, e.logits)


def test_answers_depend_on_nothing_said_before(tokenizer):
    one, scan = model(tokenizer), volume()
    kept = scan.array.copy()
    state = one.encode(scan, store=FeatureStore())
    ask, other = (Ask(Prompt((Text(word),))) for word in ("liver", "spleen"))
    first = one.segment(state, [ask])[0]
    one.segment(state, [other])
    said(one, volume(seed=1), "spleen")
    again = one.segment(state, [ask])[0]
    assert np.array_equal(first.logits, again.logits) and first.presence == again.presence
    assert np.array_equal(scan.array, kept)
    rebuilt = one.rebuilt(one.parts)
    assert (rebuilt.digest, rebuilt.encoder) == (one.digest, one.encoder)


def test_settings_that_change_no_view_share_features(tokenizer):
    net = tiny()
    one = model(tokenizer, net)
    for setting in ({"joint": True}, {"words": "name"}, {"open": True}, {"p_value": 0.1}):
        other = model(tokenizer, net, **setting)
        assert other.encoder == one.encoder and other.digest != one.digest
    for setting in ({"site": "lung"}, {"turn": "stored"}, {"plane": "coronal"}, {"size": 96}):
        assert model(tokenizer, net, **setting).encoder != one.encoder


# weights


def test_a_view_that_is_no_multiple_of_the_stride_is_padded():
    net = tiny()
    image = torch.randn(1, 3, 1, 50, 70)
    with torch.no_grad():
        features = net.encode(image)
        padded = torch.nn.functional.pad(image, (0, 26, 0, 14))
        torch.testing.assert_close(features["mask"], net.encode(padded)["mask"])
    assert features["mask"].shape == (1, 32, 16, 24)


def test_the_released_sizes_are_those_of_its_keys(parity_dir):
    path = parity_dir / "keys" / "biomedparse_v1.json"
    if not path.exists():
        pytest.skip("no key list of biomedparse_v1")
    expected = {key: tuple(shape) for key, shape in json.loads(path.read_text())["tensors"].items()}
    with torch.device("meta"):
        both = nets.released(), nets.biomedparse_of(expected)
    for net in both:
        own = {nets.official(key): tuple(tensor.shape) for key, tensor in net.state_dict().items()}
        assert own == {key: shape for key, shape in expected.items() if not key.startswith(tuple(nets.UNUSED))}
    assert all(nets.official(nets.ours(key)) == key for key in expected)
    assert parameters(both[0]) / 1e6 == pytest.approx(biomedparse.CARD.parameters_m, abs=0.05)


@pytest.mark.parametrize(("incoming", "mask_width", "width"), [(32, 32, 32), (32, 24, 48), (64, 16, 32)])
def test_a_net_is_rebuilt_from_its_official_keys_whatever_its_widths(incoming, mask_width, width):
    flags = {"use_conv_embed": True, "use_post_layernorm": True, "normalize_modulator": True, "use_layerscale": True}
    sizes = {"embed_dim": 12, "depths": [1, 2, 1, 1], "hidden_sizes": [12, 24, 48, 96], "mlp_ratio": 37 / 12 + 1e-6}
    config = focal.FocalNetConfig(**sizes, **flags, focal_levels=[1, 2, 3, 2], focal_windows=[5, 3, 3, 7])
    text = CausalText(vocabulary=50, length=9, width=16, layers=2, heads=2)
    pixels = decoders.PixelDecoder(
        [12, 24, 48, 96], width=incoming, mask_width=mask_width, hidden=20, layers=2, heads=8
    )
    words = decoders.Language(text, width=width)
    size = {"width": width, "mask_width": mask_width, "hidden": 20, "heads": 8, "incoming": incoming}
    net = nets.BiomedParseNet(
        focal.FocalBackbone(config), pixels, decoders.Predictor(words, queries=7, layers=3, **size)
    )
    saved = {nets.official(key): tensor for key, tensor in net.state_dict().items()}
    again = nets.biomedparse_of(
        {key: tuple(x.shape) for key, x in saved.items()}, {"MODEL": {"DECODER": {"NHEADS": 8}, "TEXT": {"HEADS": 2}}}
    )
    weights.fill(again, {nets.ours(key): tensor for key, tensor in saved.items()}, what="BiomedParse")
    ids = torch.tensor([[48, 3, 49, 49, 49, 49, 49, 49, 49]])
    with torch.no_grad():
        one, other = (
            n.eval().grounded(n.encode(torch.ones(1, 3, 1, 64, 96)), ids, (ids != 49).long()).masks
            for n in (net, again)
        )
    assert one.shape == (7, 16, 24) and torch.equal(one, other)


def test_flops_are_counted_in_every_stage():
    (size,) = biomedparse.published()
    assert set(size.stages) == {"encoder", "text", "decoder"}
    assert all(counted(call) > 0 for call in size.stages.values())


@pytest.fixture
def official(parity_dir) -> Fixture:
    if not (parity_dir / "biomedparse" / "io.npz").exists():
        pytest.skip("no fixture of biomedparse")
    return Fixture(parity_dir / "biomedparse")


def test_loading_an_official_file(official, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "weights"))
    n = official.config["vocab_size"]
    words = str(vocabulary(tmp_path / "words", n))
    one = biomedparse.load(checkpoint=str(official.folder), tokenizer=words, plane="coronal")
    assert one.parts.weights.startswith("unknown:")
    assert one.parts.frame.size == official.config["image_size"] and one.parts.frame.plane == "coronal"
    answer = said(one, volume(), "liver")[0]
    assert answer.logits.dtype == np.float32 and np.isfinite(answer.logits).all()
    with pytest.raises(WeightsError, match=f"{n + 1:,} words and the weights {n:,}"):
        biomedparse.load(checkpoint=str(official.folder), tokenizer=str(vocabulary(tmp_path / "more", n + 1)))
    with pytest.raises(WeightsError, match="weights pull biomedparse"):
        biomedparse.load(checkpoint=str(official.folder))
    vocabulary(tmp_path / "weights" / "clip", n)
    assert biomedparse.load(checkpoint=str(official.folder)).parts.frame.tokenizer.size == n
    with pytest.raises(WeightsError, match=r"biomedparse_v1\.pt"):
        biomedparse.load()


def test_other_weights_and_settings_are_refused(tmp_path):
    torch.save({"model": {"image_encoder.weight": torch.zeros(2)}}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match="not of BiomedParse"):
        biomedparse.load(checkpoint=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"yaml": {"MODEL": {"TEXT": {"TOKENIZER": "biomed-clip"}}}}))
    with pytest.raises(WeightsError, match="TOKENIZER=biomed-clip"):
        biomedparse.load(checkpoint=str(tmp_path))


@pytest.mark.slow
def test_every_tensor_of_the_checkpoint_changes_an_output(official):
    net = parity_module.network(official)
    io = official.io
    ids, mask = torch.from_numpy(io["in.input_ids"]), torch.from_numpy(io["in.attention_mask"])
    said = net.grounded(net.encode(torch.from_numpy(io["out.model_input"])[None, :, None]), ids, mask)
    generator = torch.Generator().manual_seed(0)
    total = sum((x * torch.randn(x.shape, generator=generator)).sum() for x in (said.masks, said.captions, said.scores))
    total.backward()
    moved = {nets.official(name) for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    keys = set(weights.read(official.checkpoint).tensors)
    still = {key for key in keys - moved if not any(re.search(p, key) for p in parity_module.UNUSED)}
    assert not still
