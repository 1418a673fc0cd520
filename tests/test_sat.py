"""SAT: words to queries, places, cross-attention, masks; files; vocabulary and presence; geometry; published sizes."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel

import probes
from segwise import weights
from segwise.errors import NoSuchStructure, PromptError, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.spoken import Spoken
from segwise.lifts.tiles import Tiling
from segwise.models import sat
from segwise.models.sat import SatFrame
from segwise.nets import sat as nets
from segwise.nets import sat_text as texts
from segwise.nets.contract import Marks
from segwise.nets.flops import counted, parameters
from segwise.nets.nnunet import Architecture
from segwise.segmenter import Parts
from spoken_probes import probed, randomised, say
from test_contracts_models import EVERY

PLAN = Architecture(
    residual=False,
    dims=3,
    features=(4, 6, 8),
    kernels=((3, 3, 3),) * 3,
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 1)),
    n_encoder=(2, 1, 2),
    n_decoder=(1, 2),
    norm_kwargs={"eps": 1e-5, "affine": True},
    nonlin_kwargs={},
)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "liver", "left", "right", "kidney", "tum", "##or", "spleen"]


def bert() -> BertModel:
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=10,
        max_position_embeddings=256, type_vocab_size=2,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


def mpnet() -> MPNetModel:
    config = MPNetConfig(
        vocab_size=20, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=10,
        max_position_embeddings=258, relative_attention_num_buckets=32,
    )  # fmt: skip
    return MPNetModel(config, add_pooling_layer=False)


def tiny(lm: nn.Module | None = None) -> nets.SatNet:
    tower = texts.TextTower(bert() if lm is None else lm, width=12, inner=9, out=16, modalities=4)
    net = nets.SatNet(
        PLAN, tower, channels=3, width=16, inner=7, mask_inner=5, layers=2, heads=2, feed_forward=11
    )  # fmt: skip
    return randomised(net)


def public(net: nets.SatNet) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors of the vision file and of the text file, under names as public files may have them."""
    seeing, reading = {}, {}
    other = {"see.": "projection_layer.", "mask.": "mask_embed_proj.", "backbone.": "backbone."}
    for key, value in net.state_dict().items():
        if key.startswith("text."):
            own = key.removeprefix("text.").replace("projection.", "mlp_embed.").replace("modality.", "modality_embed.")
            reading[f"module.text_tower.{own}"] = value.clone()
        else:
            first = next((o for o in other if key.startswith(o)), "")
            seeing[f"module.{other.get(first, '')}{key.removeprefix(first)}"] = value.clone()
    seeing["module.backbone.decoder.seg_layers.0.weight"] = torch.randn(2, 4, 1, 1, 1)
    seeing["module.query_decoder.layers.1.self_attn.in_proj_weight"] = torch.randn(48, 16)
    seeing["module.query_decoder.layers.1.norm1.weight"] = torch.randn(16)
    reading["module.atlas_tower.conv.weight"] = torch.randn(2, 2)
    reading["module.temperature"] = torch.tensor(0.07)
    return seeing, reading


@pytest.fixture(scope="module")
def net() -> nets.SatNet:
    return tiny()


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("sat")
    seeing, reading = public(net)
    torch.save({"model_state_dict": seeing, "step": 7}, path / "checkpoint.pth")
    torch.save({"model_state_dict": reading}, path / "text_encoder.pth")
    (path / "vocab.txt").write_text("\n".join(VOCABULARY))
    (path / "config.json").write_text(json.dumps({"heads": 2, "text_heads": 2}))
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return sat.load(checkpoint=str(folder), rows=32, slices=16)


@pytest.fixture(scope="module")
def words(folder):
    return texts.Words(folder)


def frame(words, patch=(64, 64, 16), **more) -> SatFrame:
    return SatFrame(words, patch, **more)


def test_places_are_sines_of_three_axes():
    d, h, w, width = 3, 4, 2, 16
    share = 2 * math.ceil(width / 6)
    assert share == 6
    expected = np.zeros((d, h, w, width))
    for place in np.ndindex(d, h, w):
        code = []
        for at in place:
            for i in range(share // 2):
                angle = at / 10000 ** (2 * i / share)
                code += [math.sin(angle), math.cos(angle)]
        expected[place] = code[:width]
    found = nets.positions((d, h, w), width).numpy().reshape(d, h, w, width)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_queries_look_at_the_image_as_in_the_paper(net):
    """Pre-norm cross-attention written out with matrices, in double precision."""
    own, state = net.query_decoder, {k: v.double().numpy() for k, v in net.query_decoder.state_dict().items()}
    rng = np.random.default_rng(0)
    queries, tokens, place = rng.normal(size=(3, 16)), rng.normal(size=(10, 16)), rng.normal(size=(10, 16))
    with torch.no_grad():
        found = own(*(torch.from_numpy(x).float()[None] for x in (queries, tokens, place)))[0].numpy()

    def norm(x, name):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return y * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = queries
    for i in range(2):
        at = f"layers.{i}."
        w, b = state[f"{at}multihead_attn.in_proj_weight"], state[f"{at}multihead_attn.in_proj_bias"]
        q = norm(x, f"{at}norm2") @ w[:16].T + b[:16]
        k, v = (tokens + place) @ w[16:32].T + b[16:32], tokens @ w[32:].T + b[32:]
        heads = []
        for head in (slice(0, 8), slice(8, 16)):
            scores = q[:, head] @ k[:, head].T / math.sqrt(8)
            share = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(share / share.sum(1, keepdims=True) @ v[:, head])
        x = x + linear(np.concatenate(heads, 1), f"{at}multihead_attn.out_proj")
        x = x + linear(np.maximum(linear(norm(x, f"{at}norm3"), f"{at}linear1"), 0), f"{at}linear2")
    np.testing.assert_allclose(found, norm(x, "norm"), rtol=0, atol=1e-4)


def test_tokens_and_masks_are_those_of_the_paper(net):
    """Pooled encoder maps through two maps; a mask is the product of its embedding with the finest map."""
    image = torch.randn(1, 1, 16, 12, 6)
    gelu = nn.GELU()
    with torch.no_grad():
        features = net.encode(image)
        maps = net.backbone["encoder"](image.repeat(1, 3, 1, 1, 1))
        assert [tuple(m.shape[1:]) for m in maps] == [(4, 16, 12, 6), (6, 8, 6, 3), (8, 4, 3, 3)]
        rows = []
        for d, h, w in np.ndindex(4, 3, 3):
            own = maps[0][0, :, 4 * d : 4 * d + 4, 4 * h : 4 * h + 4, 2 * w : 2 * w + 2].mean((1, 2, 3))
            half = maps[1][0, :, 2 * d : 2 * d + 2, 2 * h : 2 * h + 2, w].mean((1, 2))
            rows.append(torch.cat((own, half, maps[2][0, :, d, h, w])))
        expected = gelu(net.see[2](gelu(net.see[0](torch.stack(rows)))))
        torch.testing.assert_close(features["tokens"][0], expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(features["place"][0], nets.positions((4, 3, 3), 16))
        queries = torch.randn(3, 16)
        found = net.decode(features, Marks(torch.zeros(3, dtype=torch.int64), tokens=queries)).logits[:, 0]
        seen = net.query_decoder(queries[None], features["tokens"], features["place"])[0]
        masks = gelu(net.mask[2](gelu(net.mask[0](seen))))
        for place in ((0, 0, 0), (15, 3, 5), (7, 11, 2)):
            each = [sum(masks[q, c] * features["full"][(0, c, *place)] for c in range(4)) for q in range(3)]
            torch.testing.assert_close(found[(slice(None), *place)], torch.stack(each), rtol=0, atol=1e-3)


def test_the_unet_is_nnunets(net):
    """The finest map through nnU-Net's own head gives nnU-Net's logits."""
    from segwise.nets.nnunet import UNet

    whole = UNet(PLAN, channels=3, classes=2).eval()
    state = {k.removeprefix("backbone."): v for k, v in net.state_dict().items() if k.startswith("backbone.")}
    missing, extra = whole.load_state_dict(state, strict=False)
    assert not extra and all("seg_layers" in key for key in missing)
    image = torch.randn(1, 1, 16, 12, 6)
    with torch.no_grad():
        expected = whole(image.repeat(1, 3, 1, 1, 1))[0]
        torch.testing.assert_close(whole.decoder.seg_layers[-1](net.encode(image)["full"]), expected)


def test_words_are_averaged_projected_and_told_the_modality(net, words):
    ids, mask = words("left kidney tumor")
    assert ids[0, :8].tolist() == [2, 6, 8, 9, 10, 3, 0, 0] and mask.sum() == 6 and ids.shape == (1, 256)
    with torch.no_grad():
        hidden = net.text.lm(input_ids=ids[:, :6]).last_hidden_state[0]
        pooled = sum(hidden) / 6
        projected = net.text.projection[2](nn.GELU()(net.text.projection[0](pooled)))
        for kind in range(4):
            told = net.words({"ids": ids, "mask": mask, "modality": torch.tensor([kind])})[0]
            torch.testing.assert_close(told, projected + net.text.modality.weight[kind], rtol=0, atol=1e-4)
        short, least = words("liver")
        both = {"ids": torch.cat((ids, short)), "mask": torch.cat((mask, least)), "modality": torch.tensor([0, 0])}
        alone = net.words({"ids": short, "mask": least, "modality": torch.tensor([0])})
        torch.testing.assert_close(net.words(both)[1:], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lm", [bert, mpnet])
def test_public_files_load_whatever_holds_them(lm):
    net = tiny(lm())
    seeing, reading = public(net)
    said = texts.official(reading)
    found = nets.official(seeing)
    tower = texts.tower_of({k: tuple(v.shape) for k, v in said.items()}, heads=2)
    other = nets.net_of({k: tuple(v.shape) for k, v in found.items()}, tower, heads=2)
    assert (other.backbone["decoder"].encoder is other.backbone["encoder"]) and other.multiple == (4, 4, 2)
    weights.fill(other, {**found, **{f"text.{key}": value for key, value in said.items()}}, what="SAT")
    state = other.state_dict()
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    ids = torch.tensor([[2, 6, 8, 9, 3]])
    tokens = {"ids": ids, "mask": torch.ones_like(ids), "modality": torch.tensor([1])}
    image = torch.randn(1, 1, 16, 12, 6)
    with torch.no_grad():
        one, two = (
            n.eval().decode(n.encode(image), Marks(torch.zeros(1, dtype=torch.int64), tokens=n.words(tokens))).logits
            for n in (net, other)
        )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


def test_a_file_without_doubles_loads(net, folder):
    seeing, _ = public(net)
    bare = {k: v for k, v in seeing.items() if ".all_modules." not in k and ".decoder.encoder." not in k}
    found, whole = nets.official(bare), nets.official(seeing)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[key], whole[key]) for key in whole)


def test_every_tensor_counts():
    net = tiny()
    ids = torch.tensor([[2, 6, 8, 9, 3], [2, 5, 3, 0, 0]])
    mask = (ids > 0).long()
    tokens = net.words({"ids": ids, "mask": mask, "modality": torch.tensor([0, 1])})
    marks = Marks(torch.zeros(2, dtype=torch.int64), tokens=tokens)
    answers = net.decode(net.encode(torch.randn(1, 1, 16, 16, 8)), marks)
    names, tensors = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad((answers.logits * torch.randn(2, 1, 16, 16, 8)).sum(), tensors, allow_unused=True)
    idle = {name for name, grad in zip(names, grads, strict=True) if grad is None or not grad.abs().max() > 0}
    # an instance norm takes away what the convolution before it adds
    assert {name for name in idle if not name.endswith("conv.bias")} == set()


def test_words_it_may_not_know(words):
    ask = frame(words).asked
    told = ask("Kidney (L)", modality="CT").tokens
    assert told["ids"][0, :4].tolist() == [2, 6, 8, 3] and told["modality"].tolist() == [0]
    assert ask("liver", modality="MR").tokens["modality"].tolist() == [1]
    with pytest.raises(NoSuchStructure, match=r'"livver" is not in the vocabulary; near: liver.*open=true'):
        ask("livver", modality="CT")
    assert frame(words, open=True).asked("Hat Rack", modality="CT").tokens["mask"].sum() == 4
    with pytest.raises(PromptError, match=r"does not say it; expected sat\(modality=M\)"):
        ask("liver", modality="")
    assert frame(words, modality="pet").asked("liver", modality="").tokens["modality"].tolist() == [3]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_scans_are_cut_clipped_and_standardised(words, modality):
    grid = Grid((20, 24, 10), np.diag([1.0, 1.0, 3.0, 1.0]))
    array = np.full(grid.shape, -900.0, np.float32)
    array[4:16, 5:20, 2:9] = np.random.default_rng(0).normal(100, 700, (12, 15, 7))
    array[4, 5, 2] = array[15, 19, 8] = 1
    array[5, 6, 3] = np.nan
    seen = frame(words).prepare(Volume.of(array, grid, (Channel(modality),)))
    assert seen.grid == grid.crop((4, 5, 2), (16, 20, 9))
    inner = np.nan_to_num(array[4:16, 5:20, 2:9], nan=float(np.nanmin(array)))
    low, high = (-500, 1000) if modality == "CT" else np.percentile(inner, (0.5, 99.5))
    cut = np.clip(inner, low, high)
    np.testing.assert_allclose(seen.array[0], (cut - cut.mean()) / cut.std(), rtol=0, atol=1e-4)


def test_an_empty_scan_is_prepared(words):
    grid = Grid((6, 7, 5), np.diag([1.0, 1.0, 3.0, 1.0]))
    seen = frame(words).prepare(Volume.of(np.full(grid.shape, -3.0, np.float32), grid, (Channel("MR"),)))
    assert seen.grid.shape == grid.shape and not seen.array.any()


def probe(words, patch=(96, 96, 24)) -> Spoken:
    return probed(Spoken(Parts(None, frame(words, patch), None, "probe"), _tiling(patch)), 1.0)


def _tiling(patch) -> Tiling:
    return Tiling(patch=patch, step=0.5, spread=True, peak=10.0)


@pytest.mark.parametrize("axes", probes.orientations())
def test_the_image_lies_where_it_lies(words, axes):
    where = probes.grid(axes)
    volume, mask = scene(where)
    assert probes.off_voxels(say(probe(words), volume, "liver")[0].mask(where), mask) <= 1


@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_other_spacings_and_slants(words, spacing, slant):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = scene(where, slant=slant)
    coarse = max(1.0, *(3.0 / s for s in where.spacing_mm))
    assert probes.off_voxels(say(probe(words), volume, "liver")[0].mask(where), mask) <= coarse


def scene(where: Grid, *, slant: float = 0.0) -> tuple[Volume, np.ndarray]:
    """The usual scene within soft tissue, so that not all but the block is cut away."""
    volume, mask = probes.scene(where, slant=slant)
    return Volume.of(np.where(mask, 600, 40).astype(np.float32), where, volume.channels), mask


def test_answers_are_pure_and_absence_is_said(loaded):
    grid = Grid((40, 36, 30), np.diag([1.1, 1.2, 2.5, 1.0]))
    volume = Volume.of(np.random.default_rng(0).normal(60, 90, grid.shape).astype(np.float32), grid, (Channel("CT"),))
    kept = volume.array.copy()
    first = say(loaded, volume, "liver")[0]
    other, again = say(loaded, volume, "left kidney", "liver")
    assert np.array_equal(first.mask(grid), again.mask(grid)) and np.array_equal(volume.array, kept)
    np.testing.assert_allclose(first.logits, again.logits, rtol=0, atol=1e-3)
    assert not np.array_equal(first.logits, other.logits)
    assert np.array_equal(say(loaded, volume, "liver")[0].logits, first.logits)
    for answer in (first, other):
        assert answer.mask(grid).any() == (answer.presence > 0.5)


def test_its_errors(net, folder, tmp_path):
    def load(**more):
        return sat.load(**{"checkpoint": str(folder), "rows": 32, "slices": 16, **more})

    with pytest.raises(SpecError, match="sat: rows is 30, expected a multiple of 4 from 8 on"):
        load(rows=30)
    with pytest.raises(SpecError, match="sat: slices is 2, expected a multiple of 2 from 4 on"):
        load(slices=2)
    with pytest.raises(WeightsError, match=r"neither tokenizer.json nor vocab.txt"):
        load(tokenizer=str(tmp_path))
    with pytest.raises(WeightsError, match=r"checkpoint.pth is not a text encoder of SAT"):
        load(text=str(folder / "checkpoint.pth"))
    with pytest.raises(WeightsError, match=r"expected the text encoder, or sat\(text=FILE\)"):
        load(checkpoint=str(shutil.copy(folder / "checkpoint.pth", tmp_path)))
    with pytest.raises(WeightsError, match=r"text_encoder.pth is not a vision file of SAT with a U-Net"):
        load(checkpoint=str(folder / "text_encoder.pth"))
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCABULARY, "pancreas"]))
    with pytest.raises(WeightsError, match="has 13 words and the text encoder 12"):
        load(tokenizer=str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"tokenizer.json is not a tokenizer"):
        load(tokenizer=str(tmp_path))
    seeing, _ = public(net)
    torch.save({**seeing, "module.extra.thing": torch.zeros(2)}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match=r"1 not of this model \(as module.extra.thing\)"):
        load(checkpoint=str(tmp_path / "more.pth"), text=str(folder / "text_encoder.pth"), tokenizer=str(folder))


def test_a_tokenizer_of_json_reads_the_same(words, tmp_path):
    words._tokenizer.save(str(tmp_path / "tokenizer.json"))
    other = texts.Words(tmp_path)
    assert torch.equal(other("right kidney")[0], words("right kidney")[0])
    assert (other.pad, other.size) == (words.pad, words.size) and other.digest != words.digest


def test_published_sizes_are_counted():
    for size in sat.published():
        flops = {stage: counted(call) for stage, call in size.stages.items()}
        assert flops["encoder"] > 1000 * flops["one structure"] > 0 and flops["text"] > 0
        seeing = parameters(size.net) - parameters(size.net.text)
        assert seeing == pytest.approx({"variant=nano": 110e6, "variant=pro": 476e6}[size.label], rel=0.01)
        first = size.net.see[0]
        assert first.in_features == {"variant=nano": 1792, "variant=pro": 3584}[size.label]


@pytest.mark.slow
@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_contract_of_every_model(check, folder):
    check(f"sat(checkpoint={folder}, rows=32, slices=16)")
