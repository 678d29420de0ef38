"""OpenVINO in int8. What its artifacts answer: tests/deploy/runtimes."""

import pytest
import torch

from hct_lightning.deploy import stem
from hct_lightning.deploy.int8.layers import layers, sqnr_db
from hct_lightning.models import HCT, FromPixels

# What an artifact's description says that its loader asks for.
WITHOUT = {"precision": "int8", "sha256": {}}
WITH_STEM = {"precision": "int8", "sha256": {stem.FILE: ""}}


@pytest.mark.slow
def test_the_chosen_layers_are_int8_and_the_answers_near(small, images, tmp_path):
    from hct_lightning.deploy.int8 import openvino  # NNCF takes seconds to import
    from hct_lightning.deploy.runtimes.openvino import load

    made = openvino.export(small, images[0], tmp_path, dynamic=False, calibration=images, percent=100)
    assert (made.runtime, made.precision) == ("openvino", "int8")
    assert made.int8 == {"convolutions": 2, "linears": 1}
    served = load(tmp_path / made.file, WITHOUT, 1, 1)
    with torch.inference_mode():
        assert sqnr_db(small(images[1]), served(images[1])) > 15


@pytest.mark.slow
def test_no_image_is_cut_off_at_the_mean_of_all(small, tmp_path):
    """Where most of the calibration images are dark, the range is still that of the bright ones."""
    from hct_lightning.deploy.int8 import openvino
    from hct_lightning.deploy.runtimes.openvino import load

    generator = torch.Generator().manual_seed(0)
    dark, bright = (
        [torch.randint(low, high, (1, 3, 128, 128), dtype=torch.uint8, generator=generator) for _ in range(4)]
        for low, high in ((100, 140), (0, 256))
    )
    calibration = [*dark, *dark, *dark, *bright]
    made = openvino.export(small, dark[0], tmp_path, dynamic=False, calibration=calibration, percent=100)
    served = load(tmp_path / made.file, WITHOUT, 1, 1)
    with torch.inference_mode():
        assert sqnr_db(small(bright[0]), served(bright[0])) > 40


@pytest.mark.slow
@pytest.mark.parametrize("percent", [50, 100])
def test_images_are_streamed_and_the_model_is_the_same(small, streamed, tmp_path, percent):
    """Until they were, all of them lay in memory at once: 3 GB at 4000 px."""
    from hct_lightning.deploy.int8 import openvino
    from hct_lightning.deploy.runtimes.openvino import load

    weights, answers = [], []
    for name, calibration in (("listed", streamed.images), ("streamed", streamed)):
        folder = tmp_path / name
        folder.mkdir()
        openvino.export(small, streamed.images[0], folder, dynamic=False, calibration=calibration, percent=percent)
        weights.append((folder / "model.bin").read_bytes())
        answers.append(load(folder / "model.xml", WITHOUT, 1, 1)(streamed.images[1]))
    assert weights[0] == weights[1]
    assert answers[0].equal(answers[1])
    assert streamed.most <= (2 if percent == 100 else 5), "the ranking of layers looks at four"


@pytest.mark.slow
def test_what_the_last_layer_of_attention_takes_has_no_zero_point(network, images, tmp_path):
    import openvino

    from hct_lightning.deploy.int8 import openvino as exporter

    made = exporter.export(network, images[0], tmp_path, dynamic=False, calibration=images, percent=100)
    model = openvino.Core().read_model(tmp_path / made.file)
    rounded = [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    ranges = [tuple(node.input_value(i).get_node().get_data().item() for i in (1, 2)) for node in rounded]
    signed = [(low, high) for low, high in ranges if low < 0]
    assert signed, "attention's values have a sign"
    assert all(low == pytest.approx(-high * 128 / 127, rel=1e-3) for low, high in signed)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_linears_of_attention_are_convolutions_without_vnni_and_answer_alike(
    network, images, dynamic, monkeypatch, tmp_path
):
    from hct_lightning.deploy.int8 import openvino
    from hct_lightning.deploy.runtimes.openvino import load

    answers = []
    for vnni, int8 in ((True, {"convolutions": 22, "linears": 23}), (False, {"convolutions": 44, "linears": 1})):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda vnni=vnni: {"avx2": True, "avx_vnni": vnni})
        (folder := tmp_path / str(vnni)).mkdir()
        made = openvino.export(network, images[0], folder, dynamic=dynamic, calibration=images, percent=100)
        assert made.int8 == int8
        answers.append(load(folder / made.file, WITHOUT, 1, 1)(images[1]))
    assert sqnr_db(*answers) > 35
    with torch.inference_mode():
        assert all(sqnr_db(network(images[1]), answer) > 15 for answer in answers)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(131, 161), (128, 130)])
def test_the_border_of_the_int8_stem_is_that_of_the_network(network, size, tmp_path):
    """Computed on pixels, with zero points, and pooled in int8: no worse at the border than within."""
    import openvino

    from hct_lightning.deploy.int8 import openvino as exporter
    from hct_lightning.deploy.runtimes.openvino import compile_model

    images = [torch.randint(150, 256, (1, 3, *size), dtype=torch.uint8) for _ in range(3)]
    made = exporter.export(network, images[0], tmp_path, dynamic=False, calibration=images, percent=100)
    core = openvino.Core()
    model = core.read_model(tmp_path / made.file)
    pool = next(node for node in model.get_ordered_ops() if node.get_type_name() == "MaxPool")
    stem = core.compile_model(openvino.Model([pool.output(0)], model.get_parameters()), "CPU")
    kernels = [node.get_rt_info() for node in stem.get_runtime_model().get_ops()]
    precision = {about["layerType"].astype(str): about["runtimePrecision"].astype(str) for about in kernels}
    assert precision["Convolution"] == precision["Pooling"] == "u8"
    assert "Transpose" not in precision
    served = compile_model(tmp_path / made.file, "int8").get_runtime_model().get_ops()
    turned = [op for op in served if op.get_rt_info()["layerType"].astype(str) == "Transpose"]
    assert not [op for op in turned if 3 in op.get_output_partial_shape(0).to_shape()], "no image is transposed"
    found = torch.from_numpy(stem(images[1].numpy())[0])
    block = network.network.stages[0][0]
    with torch.inference_mode():
        exact = block.act1(block.bn1(network.network.stem(network.normalise(images[1], torch.float32))))
    error = (found - exact).abs()
    within = error[..., 2:-2, 2:-2].mean()
    assert within < exact.max() / 100
    for border in (error[..., 0, :], error[..., -1, :], error[..., 0], error[..., -1]):
        assert border.mean() < 2 * within


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_our_stem_and_openvinos_answer_alike(channels, tmp_path):
    from hct_lightning.deploy.int8 import openvino as exporter
    from hct_lightning.deploy.runtimes.openvino import load, prepare

    if not stem.fast():
        pytest.skip("OpenVINO's own is as fast on this CPU")
    network = FromPixels(HCT(in_chans=channels), [0.5] * channels, [0.25] * channels).train()
    images = [torch.randint(0, 256, (1, channels, 160, 192), dtype=torch.uint8) for _ in range(3)]
    network(torch.cat(images))
    network.eval()
    made = exporter.export(network, images[0], tmp_path, dynamic=False, calibration=images, percent=100)
    served = load(tmp_path / made.file, WITH_STEM, 2, 1)
    _, brought = prepare(tmp_path / made.file, WITH_STEM, 2)()
    assert brought(images[1]).shape == (1, 39, 47, stem.OUT)
    ours = served(images[1])
    theirs = load(tmp_path / made.file, WITHOUT, 2, 1)(images[1])
    assert sqnr_db(theirs, ours) > 20  # one step of rounding here and there, where int8 has about 20 against fp32
    with torch.inference_mode():
        exact = network(images[1])
    assert sqnr_db(exact, ours) > sqnr_db(exact, theirs) - 3


@pytest.mark.slow
def test_a_stem_that_its_model_does_not_know_is_refused(small, images, tmp_path):
    from hct_lightning.deploy.int8 import openvino as exporter
    from hct_lightning.deploy.runtimes.openvino import load

    if not stem.fast():
        pytest.skip("OpenVINO's own is as fast on this CPU")
    made = exporter.export(small, images[0], tmp_path, dynamic=False, calibration=images, percent=100)
    (tmp_path / stem.FILE).write_bytes(b"of another one")
    with pytest.raises(ValueError, match=r"names no stem, of which stem\.bin lies beside it"):
        load(tmp_path / made.file, WITH_STEM, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("conv_stages", [3, 5])
@pytest.mark.parametrize("blocks", [(2, 2, 2, 2, 2), (1, 3, 1, 1, 1)])
def test_the_first_stages_have_nothing_but_bytes(conv_stages, blocks, tmp_path):
    """All is added up in the convolutions."""
    from openvino import Core

    from hct_lightning.deploy.int8 import openvino
    from hct_lightning.deploy.runtimes.openvino import FIRST_STAGES, compile_model, load

    network = FromPixels(HCT(conv_stages=conv_stages, blocks=blocks), [0.5] * 3, [0.25] * 3).train()
    images = [torch.randint(0, 256, (1, 3, 160, 192), dtype=torch.uint8) for _ in range(4)]
    network(torch.cat(images))
    network.eval()
    made = openvino.export(network, images[0], tmp_path, dynamic=False, calibration=images, percent=100)
    with torch.inference_mode():
        assert sqnr_db(network(images[1]), load(tmp_path / made.file, WITHOUT, 1, 1)(images[1])) > 15
    convolutions, precisions = 0, set()
    for operation in compile_model(tmp_path / made.file, "int8").get_runtime_model().get_ordered_ops():
        about = operation.get_rt_info()
        kind = about["layerType"].astype(str)
        shape = operation.get_output_partial_shape(0) if operation.get_output_size() else []
        if kind not in ("Const", "Reorder") and [int(str(side)) for side in shape][1:] in ([16, 20, 24], [32, 10, 12]):
            convolutions += kind == "Convolution"
            precisions.add(about["outputPrecisions"].astype(str))
    assert convolutions == 2 * sum(blocks[:2]) + 2
    assert precisions <= {"u8", "i8"}
    outputs = [output for op in Core().read_model(tmp_path / made.file).get_ordered_ops() for output in op.outputs()]
    [sum_of_stages] = [output.get_node() for output in outputs if FIRST_STAGES in output.get_names()]
    branch = sum_of_stages.input_value(1).get_node()
    assert branch.get_type_name() == "Convolution", "not rounded, as the sum is not: else OpenVINO gives it in fp32"


def test_sums_are_those_of_blocks_in_int8_from_the_first_of_a_stage_on():
    from hct_lightning.deploy.int8.openvino import blocks_of

    network = HCT(blocks=(2, 3, 2, 1, 1))
    every = set(layers(network))
    names = [f"stages.{stage}.{block}" for stage, count in enumerate((2, 3, 2)) for block in range(count)]
    assert blocks_of(network, every) == set(names)
    assert blocks_of(network, every - {"stages.1.1.conv2", "stages.2.0.shortcut"}) == set(names[:3])
    assert blocks_of(network, every - {"stages.3.0.conv"}) == set(names)
    assert not blocks_of(network, set())
