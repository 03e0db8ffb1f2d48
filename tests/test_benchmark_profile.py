import pytest

from cnnjax.benchmark import profile
from cnnjax.benchmark.profile import PARTS, Row, operations, part_of
from cnnjax.benchmark.work import Job
from cnnjax.errors import UserError
from cnnjax.models import convolution

PROGRAM = """\
%fused_computation.1 (p0: f32[8]) -> f32[8] {
  %p0 = f32[8]{0} parameter(0)
  ROOT %add.1 = f32[8]{0} add(%p0, %p0), metadata={op_name="jit(dispatch)/jvp(norm)/add" stack_frame_id=1}
}

%fused_computation.2 (p0: f32[8]) -> f32[8] {
  ROOT %convolution.3 = f32[8]{0} convolution(%p0, %p0), window={size=8x8}
}

ENTRY %main (p0: f32[8]) -> f32[8] {
  %ynn_fusion = f32[8]{0} fusion(%p0), kind=kCustom, calls=%fused_computation.2
  %fusion.4 = f32[8]{0} fusion(%p0), kind=kLoop, calls=%fused_computation.1
  %transpose_copy_fusion = f32[8]{0} fusion(%p0), kind=kLoop, calls=%fused_computation.1
  ROOT %custom-call.5 = f32[8]{0} custom-call(%p0), metadata={op_name="jit(dispatch)/jvp(convolution)/convolution"}
}
"""


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("jit(dispatch)/jvp(convolution)/conv_general_dilated", "convolution"),
        ("jit(dispatch)/transpose(jvp(convolution))/convolution_input_gradient", "convolution's gradients"),
        ("jit(dispatch)/transpose(jvp(norm))/mul", "norm"),
        ("jit(dispatch)/optimizer/add", "optimizer"),
        ("jit(dispatch)/jvp()/jit(relu)/max", "other"),
        ("", "other"),
    ],
)
def test_an_operation_belongs_to_the_layer_in_its_name(name, part):
    assert part_of(name) == part


def test_names_are_found_within_fusions_and_nameless_gradients_are_known():
    parts = {name: part_of(full) for name, full in operations(PROGRAM).items() if "fusion" in name or "call" in name}
    assert parts == {
        "ynn_fusion": "convolution's gradients", "fusion.4": "norm",
        "transpose_copy_fusion": "convolution's gradients", "custom-call.5": "convolution",
    }  # fmt: skip


@pytest.mark.parametrize("way", profile.WAYS)
def test_a_step_is_divided_into_its_parts(way, monkeypatch, tmp_path):
    monkeypatch.setattr(convolution, "lowering", convolution.lowering)  # which "before" replaces
    job = Job(task="train", model="lenet", image_shape=(28, 28, 1), num_classes=10, batch=16, platform="cpu")
    row = profile.profiled(job, way)
    assert sum(row.parts.values()) == pytest.approx(row.milliseconds)
    assert min(row.parts[part] for part in ("convolution's gradients", "dense", "optimizer")) > 0
    assert row.by == "xla" if way == "before" else row.by != "xla"
    (tmp_path / "performance.md").write_text("# Performance\n\nby hand\n")
    profile.record(["--write"], [row], tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert page.startswith("# Performance\n\nby hand\n\n## Where the time goes\n")
    assert f"| lenet, batch 16, {way} | {row.by} | {row.milliseconds:.1f} |" in page
    assert (tmp_path / profile.PICTURE).read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_line_for_each_row():
    row = Row("lenet", 256, "after", "xla", 12.34, dict.fromkeys(PARTS, 1.5))
    lines = profile.markdown([row]).splitlines()
    assert lines[-1] == "| lenet, batch 256, after | xla | 12.3 | " + " | ".join(["1.5"] * len(PARTS)) + " |"
    assert {line.count("|") for line in lines} == {len(PARTS) + 4}


def test_an_unknown_network_is_refused():
    with pytest.raises(UserError, match="unknown model 'lenett'"):
        profile.run(["--models", "lenett"])
