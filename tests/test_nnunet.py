"""nnU-Net: plans, labels, checkpoints as they are found in the wild, geometry, errors, published sizes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dataset_trees as trees
import probes
import test_contracts_models as contracts
from parity import nnunet as parity_file
from parity.harness import Fixture
from segwise import assemble, catalog
from segwise.errors import NoSuchStructure, PromptError, SpecError, WeightsError
from segwise.evaluate import compare
from segwise.evaluate.predict import Setup, Worker
from segwise.geometry import Channel, Grid, Volume
from segwise.models import _planned, nnunet
from segwise.nets import nnunet as nets
from segwise.nets.contract import ClosedNet
from segwise.nets.flops import counted, parameters
from segwise.prompt import Points, Prompt, Text
from segwise.segmenter import Ask
from segwise.store import FeatureStore


def plans(*, residual: bool = False, flat: bool = False, **changes) -> dict:
    """A small plan as nnU-Net 2.5 writes it."""
    dims = 2 if flat else 3
    convs = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    kind = "residual_unet.ResidualEncoderUNet" if residual else "unet.PlainConvUNet"
    configuration = {
        "patch_size": [16] * dims,
        "spacing": [2.0] * dims,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.{kind}",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [4, 6],
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [[3] * dims, [3] * dims],
                "strides": [[1] * dims, [2] * dims],
                convs: [1, 2],
                "n_conv_per_stage_decoder": [1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
        },
        **changes,
    }
    statistics = {"mean": 50.0, "std": 100.0, "percentile_00_5": -200.0, "percentile_99_5": 300.0}
    return {
        "transpose_forward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "configurations": {"own": configuration, "heir": {"inherits_from": "own", "batch_size": 4}},
        "foreground_intensity_properties_per_channel": {"0": statistics},
    }


LABELS = {"background": 0, "kidney_left": 1, "kidney_right": 2, "hat rack": 3}
REGIONS = {"background": 0, "kidney": [1, 2], "kidney tumor": [2]}


def saved(path: Path, plan: dict, labels: dict, *, seed: int = 0, **extra) -> Path:
    """A checkpoint with random weights in nnU-Net's format, NumPy scalars in its log."""
    chosen = _planned.resolved(plan, "heir")
    regions = any(isinstance(v, list) for v in labels.values())
    torch.manual_seed(seed)
    n = len(chosen["normalization_schemes"])
    net = nets.UNet(nets.architecture(chosen), channels=n, classes=len(labels) - regions)
    dataset = {"labels": labels, **({"regions_class_order": [1, 2]} if regions else {})}
    content = {
        "network_weights": net.state_dict(),
        "optimizer_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "epoch_start_timestamps": [1.0]},
        "_best_ema": np.float64(0.5),
        "init_args": {"plans": plan, "configuration": "heir", "fold": 0, "dataset_json": dataset},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
        **extra,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def scan(shape=(12, 20, 18), n=1, modality="CT") -> Volume:
    grid = Grid(shape, np.diag([2.5, 1.5, 2.0, 1.0]))
    array = np.random.default_rng(0).normal(40, 100, size=(n, *shape)).astype(np.float32)
    return Volume.of(array, grid, [Channel(modality)] * n)


def asked(model, volume: Volume, *names: str):
    return model.segment(model.encode(volume, store=FeatureStore()), [Ask(Prompt((Text(n),))) for n in names])


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_any_plan_answers_its_labels(tmp_path, residual, flat):
    model = nnunet.load(
        checkpoint=str(saved(tmp_path / "checkpoint_final.pth", plans(residual=residual, flat=flat), LABELS))
    )
    assert model.parts.labels == ("left kidney", "right kidney", "hat rack")
    assert model.mirror == ((1, 2) if flat else (0, 1))
    volume = scan()
    answers = asked(model, volume, "left kidney", "L kidney", "kidney", "hat rack")
    masks = [answer.mask(volume.grid) for answer in answers]
    assert np.array_equal(masks[0], masks[1])
    assert (masks[2] >= masks[0]).all()
    assert not (masks[2] & masks[3]).any()
    assert model.parts.weights.startswith("unknown")


def test_regions_keep_their_names_and_overlap(tmp_path):
    model = nnunet.load(checkpoint=str(saved(tmp_path / "checkpoint_final.pth", plans(), REGIONS)))
    assert model.parts.labels == ("kidney", "kidney tumor")
    volume = scan()
    whole, tumor = (answer.mask(volume.grid) for answer in asked(model, volume, "kidney", "kidney tumor"))
    assert tumor.any()
    assert (whole >= tumor).all()


def test_a_folder_of_folds_is_averaged(tmp_path):
    for fold in (0, 1):
        saved(tmp_path / f"fold_{fold}" / "checkpoint_final.pth", plans(), LABELS, seed=fold)
    both = nnunet.load(checkpoint=str(tmp_path), mirror=False)
    first = nnunet.load(checkpoint=str(tmp_path), folds="0", mirror=False)
    second = nnunet.load(checkpoint=str(tmp_path), folds="1", mirror=False)
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        mean = (first.parts.net(image)[0] + second.parts.net(image)[0]) / 2
        torch.testing.assert_close(both.parts.net(image)[0], mean)
    assert len({both.digest, first.digest, second.digest}) == 3
    with pytest.raises(WeightsError, match="for the folds 0, 7"):
        nnunet.load(checkpoint=str(tmp_path), folds="0,7")


def test_plans_and_labels_are_taken_from_the_folder_where_the_file_has_none(tmp_path):
    file = tmp_path / "fold_0" / "checkpoint_final.pth"
    saved(file, plans(), LABELS, init_args={"configuration": "heir", "fold": 0})
    with pytest.raises(WeightsError, match=r"names no plans, and .*plans.json cannot be read"):
        nnunet.load(checkpoint=str(tmp_path))
    (tmp_path / "plans.json").write_text(json.dumps(plans()))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    assert nnunet.load(checkpoint=str(tmp_path)).parts.labels


def test_old_plans_name_the_same_network():
    new = _planned.resolved(plans(), "heir")
    old = {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [1, 2],
        "n_conv_per_stage_decoder": [1],
        "conv_kernel_sizes": [[3, 3, 3]] * 2,
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
    }
    assert nets.architecture(old) == nets.architecture(new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"previous_stage": "3d_lowres"}, "second stage of a cascade"),
        ({"resampling_fn_data": "resample_torch"}, "plans ask for resample_torch; known is"),
        ({"normalization_schemes": ["Magic"]}, "plans ask for Magic; known are CTNormalization"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, change, message):
    file = saved(tmp_path / "checkpoint_final.pth", plans(**change), LABELS)
    with pytest.raises(WeightsError, match=message):
        nnunet.load(checkpoint=str(file))


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"give a trained model: nnunet\(checkpoint=FOLDER\)"):
        nnunet.load()
    with pytest.raises(WeightsError, match="expected nnU-Net's trained-model folder"):
        nnunet.load(checkpoint=str(tmp_path))
    torch.save({"model": {"w": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="is not a checkpoint of nnU-Net"):
        nnunet.load(checkpoint=str(tmp_path / "other.pth"))
    file = saved(tmp_path / "checkpoint_final.pth", plans(), LABELS)
    with pytest.raises(SpecError, match="step is 0, expected"):
        nnunet.load(checkpoint=str(file), step=0.0)
    with pytest.raises(SpecError, match='axes is "XYZ"'):
        nnunet.load(checkpoint=str(file), axes="XYZ")
    with pytest.raises(WeightsError, match='no configuration "2d"; they have own, heir'):
        nnunet.load(checkpoint=str(file), configuration="2d")
    model = nnunet.load(checkpoint=str(file))
    with pytest.raises(NoSuchStructure, match=r'"liver" is not among the 3 structures of this model'):
        asked(model, scan(), "liver")
    with pytest.raises(PromptError, match="takes 1 channels, the volume has 2"):
        asked(model, scan(n=2), "left kidney")
    with pytest.raises(PromptError, match="takes the target's name as text; came: points"):
        model.segment(
            model.encode(scan(), store=FeatureStore()),
            [Ask(Prompt((Points(np.zeros((1, 3)), np.array([True])),)))],
        )


def test_the_card_lists_no_labels_because_the_file_does():
    info = assemble.model_info("nnunet(checkpoint=somewhere)")
    assert info.labels is None
    assert info.card.takes == ("text",)
    assert catalog.card("models", "nnunet").weights == ()


@pytest.mark.parametrize("check", contracts.EVERY, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize(
    "labels", [{"background": 0, "liver": 1, "spleen": 2}, {"background": 0, "liver": [1, 2], "spleen": [2]}]
)
def test_contract(tmp_path, check, labels):
    check(f'nnunet(checkpoint="{saved(tmp_path / "checkpoint_final.pth", plans(), labels)}")')


def test_answers_depend_on_nothing_else(tmp_path):
    model = nnunet.load(checkpoint=str(saved(tmp_path / "checkpoint_final.pth", plans(), LABELS)))
    volume, other = scan(), scan((9, 14, 15))
    before = volume.array.copy()
    first = asked(model, volume, "left kidney")[0]
    asked(model, other, "hat rack")
    again = asked(model, volume, "hat rack", "left kidney")[1]
    assert np.array_equal(first.logits, again.logits)
    assert first.grid == again.grid
    assert np.array_equal(volume.array, before)


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization"])
def test_normalisation(tmp_path, scheme):
    plan = plans(normalization_schemes=[scheme], spacing=[2.5, 1.5, 2.0])
    frame = nnunet.load(checkpoint=str(saved(tmp_path / "checkpoint_final.pth", plan, LABELS)), axes="RAS").parts.frame
    volume = scan()
    found = frame.prepare(volume).array
    expected = {
        "ZScoreNormalization": (volume.array - volume.array.mean()) / volume.array.std(),
        "NoNormalization": volume.array,
        "RescaleTo01Normalization": (volume.array - volume.array.min()) / np.ptp(volume.array),
    }[scheme]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_zeros_around_a_head_are_cut_and_left_alone(tmp_path):
    plan = plans(normalization_schemes=["ZScoreNormalization"], use_mask_for_norm=[True], spacing=[2.5, 1.5, 2.0])
    frame = nnunet.load(checkpoint=str(saved(tmp_path / "checkpoint_final.pth", plan, LABELS)), axes="RAS").parts.frame
    volume = scan()
    array = volume.array.copy()
    array[:, :2] = array[:, :, 15:] = 0
    array[:, 2, 0, 0] = 0
    found = frame.prepare(Volume.of(array, volume.grid, volume.channels))
    assert found.grid.shape == (10, 15, 18)
    assert found.array[0, 0, 0, 0] == 0
    assert abs(found.array[0].mean()) < 1e-3
    empty = Volume.of(np.zeros_like(array), volume.grid, volume.channels)
    assert frame.prepare(empty).grid.shape == volume.grid.shape


class Shown(ClosedNet):
    """Label 1 where the image is above the middle of its range."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return [
            torch.cat(
                [torch.zeros_like(image), image - 0.75, torch.full_like(image, -9.0), torch.full_like(image, -9.0)],
                dim=1,
            )
        ]


def probe_model(tmp_path, spacing=(2.5, 2.0, 2.0), transpose=(0, 1, 2)):
    plan = plans(spacing=list(spacing)) | {"transpose_forward": list(transpose)}
    model = nnunet.load(checkpoint=str(saved(tmp_path / "checkpoint_final.pth", plan, LABELS)), mirror=False)
    return model.rebuilt(replace(model.parts, net=Shown()))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return probe_model(tmp_path_factory.mktemp("probe"), spacing=(4.0, 2.5, 2.0))


@pytest.mark.parametrize("axes", probes.orientations())
def test_the_image_lies_where_it_lies(shown, axes):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    found = asked(shown, volume, "left kidney")[0].mask(where)
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_the_image_lies_where_it_lies_in_other_spacings_and_slants(tmp_path, spacing, slant, transpose):
    model = probe_model(tmp_path, transpose=transpose)
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = probes.scene(where, slant=slant)
    found = asked(model, volume, "left kidney")[0].mask(where)
    coarse = max(1.0, *(2.5 / s for s in where.spacing_mm))
    assert probes.off_voxels(found, mask) <= coarse


def test_a_slice_by_slice_plan_keeps_the_spacing_of_slices(tmp_path):
    model = nnunet.load(checkpoint=str(saved(tmp_path / "checkpoint_final.pth", plans(flat=True), LABELS)), axes="RAS")
    prepared = model.parts.frame.prepare(scan())
    assert prepared.grid.shape == (12, 15, 18)
    np.testing.assert_allclose(prepared.grid.spacing_mm, (2.5, 2.0, 2.0))


def test_published_sizes_and_their_work():
    sizes = nnunet.published()
    assert [round(parameters(size.net) / 1e6, 1) for size in sizes] == pytest.approx([30.8, 102.0], abs=2.0)
    for size in sizes:
        assert set(size.stages) == {"encoder", "decoder"}
        assert all(counted(call) > 0 for call in size.stages.values())


def test_keys_of_a_published_plan():
    """3d_fullres as nnU-Net writes it for CT: six stages, 32 to 320 channels; names and shapes of the official file."""
    (plain, residual) = nnunet.published()
    shapes = {key: tuple(value.shape) for key, value in plain.net.state_dict().items()}
    assert shapes["encoder.stages.0.0.convs.0.conv.weight"] == (32, 1, 3, 3, 3)
    assert shapes["decoder.encoder.stages.5.0.convs.1.all_modules.0.weight"] == (320, 320, 3, 3, 3)
    assert shapes["decoder.transpconvs.0.weight"] == (320, 320, 2, 2, 2)
    assert shapes["decoder.seg_layers.4.weight"] == (14, 32, 1, 1, 1)
    shapes = {key: tuple(value.shape) for key, value in residual.net.state_dict().items()}
    assert shapes["encoder.stem.convs.0.all_modules.1.bias"] == (32,)
    assert shapes["encoder.stages.1.blocks.0.skip.1.conv.weight"] == (64, 32, 1, 1, 1)
    assert "encoder.stages.5.blocks.0.skip.1.conv.weight" not in shapes
    assert shapes["decoder.encoder.stages.3.blocks.5.conv2.norm.weight"] == (256,)


@pytest.mark.slow
def test_every_tensor_counts_or_is_listed(parity_dir):
    """The gradient of the finest logits with respect to each tensor of the fixture is not zero, or it is listed."""
    fixture = Fixture(parity_dir / "nnunet")
    if not fixture.checkpoint.exists():
        pytest.skip("no fixture of nnunet")
    net = nnunet.load(checkpoint=str(fixture.folder)).parts.net.double().requires_grad_(True)
    image = torch.from_numpy(fixture.io["out.patch_input"]).double()
    out = net(image)[0]
    (out * torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(0))).sum().backward()
    last = len(net.decoder.seg_layers) - 1
    listed = [re.compile(pattern.replace("LAST", str(last))) for pattern in parity_file.UNUSED]
    for key, value in net.state_dict(keep_vars=True).items():
        moved = value.grad is not None and value.grad.abs().max().item() > 1e-9 * value.detach().abs().max().item()
        assert moved or any(pattern.fullmatch(key) for pattern in listed), key


def test_compare_skips_what_the_model_does_not_know(tmp_path):
    file = saved(tmp_path / "checkpoint_final.pth", plans(), LABELS)
    volume, labels = scan(), np.zeros((12, 20, 18), dtype=np.uint8)
    labels[2:6, 2:6, 2:6], labels[7:9, 7:9, 7:9] = 1, 2
    trees.save(tmp_path / "data" / "case" / "image.nii.gz", volume.array[0])
    trees.save(tmp_path / "data" / "case" / "labels.nii.gz", labels)
    names = {"modality": "CT", "label_map": {"1": "left kidney", "2": "liver"}}
    (tmp_path / "data" / "case" / "case.json").write_text(json.dumps(names))
    plan = compare.plan_of([f'nnunet(checkpoint="{file}")'], [])
    work = Worker(Setup(tmp_path / "run"))
    records = [record for task in compare.preview(plan, tmp_path / "data").tasks for record in work(task)]
    assert {r.target: r.status for r in records} == {"left kidney": "done", "liver": "skipped"}
    assert next(r.reason for r in records if r.target == "liver").startswith('"liver" is not among the 3 structures')
