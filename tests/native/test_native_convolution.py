"""The native convolution, compared with XLA's in float64; skipped if `make native` has not built it."""

import ctypes.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow
from hypothesis import given
from hypothesis import strategies as st

from cnnjax import create, init
from cnnjax.ops import dispatch as rules
from cnnjax.ops.native import library
from cnnjax.ops.native.convolution import INPUT_GRADIENT, convolution, xla_convolution
from cnnjax.ops.native.epilogue import NONLINEARITIES, convolution_with_epilogue
from cnnjax.ops.native.library import load
from cnnjax.ops.window import Window
from cnnjax.system.cpus import cores

needs_library = pytest.mark.skipif(load() is None, reason="the native library is disabled or not built (make native)")
CLOSE = 1e-5
"""Tolerance, relative to the largest value."""


@st.composite
def cases(draw):
    """Draw matching images, kernel and window."""
    groups = draw(st.sampled_from([1, 1, 2, 3, 8]))
    depthwise = draw(st.booleans())
    inner = 1 if depthwise else draw(st.integers(1, 9))
    outer = 1 if depthwise else draw(st.integers(1, 9))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)), inner, outer * groups)
    window = Window(
        strides=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2)),
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        groups=groups,
    )
    least = [
        max(1, (k - 1) * d + 1 - sum(p))
        for k, d, p in zip(kernel, window.dilation, window.padding, strict=False)
    ]  # fmt: skip
    images = (draw(st.integers(1, 4)), *(draw(st.integers(n, n + 12)) for n in least), inner * groups)
    return images, kernel, window, draw(st.integers(0, 2**31))


def exact(images, kernel, window, cotangent):
    """Return XLA's convolution and its two gradients in float64, one group at a time, which is faster."""
    if window.groups > 1:
        parts = zip(*(np.split(a, window.groups, axis=-1) for a in (images, kernel, cotangent)), strict=True)
        actual = [exact(x, w, window._replace(groups=1), y) for x, w, y in parts]
        return tuple(np.concatenate(each, axis=-1) for each in zip(*actual, strict=True))
    with jax.enable_x64(True):
        wide = [np.asarray(a, np.float64) for a in (images, kernel, cotangent)]
        result, back = jax.vjp(lambda x, w: xla_convolution(x, w, window), *map(jnp.asarray, wide[:2]))
        return tuple(map(np.asarray, (result, *back(jnp.asarray(wide[2])))))


def error(actual, expected):
    scale = np.abs(expected).max()
    return np.abs(np.asarray(actual, np.float64) - expected).max() / scale if scale else np.abs(actual).max()


def random(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@needs_library
@given(cases())
def test_output_and_gradients_equal_xla_in_float64(case):
    images_shape, kernel_shape, window, seed = case
    images, kernel = random(seed, images_shape, kernel_shape)
    actual, back = jax.vjp(lambda x, w: convolution(x, w, window), images, kernel)
    (cotangent,) = random(seed + 1, actual.shape)
    expected = exact(images, kernel, window, cotangent)
    for ours, theirs in zip((actual, *back(cotangent)), expected, strict=True):
        assert ours.shape == theirs.shape
        assert error(ours, theirs) < CLOSE


@needs_library
@given(cases(), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.sampled_from(sorted(NONLINEARITIES)))
def test_an_epilogue_equals_separate_steps(case, parts, nonlinearity):
    images_shape, kernel_shape, window, seed = case
    images, kernel = random(seed, images_shape, kernel_shape)
    shape = convolution(images, kernel, window).shape
    others = dict(zip(("scale", "offset", "residual"), random(seed + 2, shape[-1:], shape[-1:], shape), strict=True))
    given_parts = {name: other for (name, other), there in zip(others.items(), parts, strict=True) if there}
    actual = convolution_with_epilogue(images, kernel, window, **given_parts, nonlinearity=nonlinearity)
    with jax.enable_x64(True):
        wide = {name: np.asarray(other, np.float64) for name, other in given_parts.items()}
        expected = xla_convolution(np.asarray(images, np.float64), np.asarray(kernel, np.float64), window)
        expected = np.asarray(expected)
        expected = expected * wide.get("scale", 1.0) + wide.get("offset", 0.0) + wide.get("residual", 0.0)
        expected = np.asarray(NONLINEARITIES[nonlinearity](jnp.asarray(expected)))
    assert error(actual, expected) < CLOSE


PLAIN = Window((1, 1), ((1, 1), (1, 1)), (1, 1), 1)


@needs_library
class TestDerivatives:
    images, kernel = random(0, (2, 6, 7, 3), (3, 3, 3, 4))

    def test_forward_mode_agrees_with_reverse_mode(self):
        def loss(x, w):
            return (convolution(x, w, PLAIN) ** 2).sum()

        tangents = random(1, self.images.shape, self.kernel.shape)
        _, slope = jax.jvp(loss, (self.images, self.kernel), tuple(tangents))
        grads = jax.grad(loss, (0, 1))(self.images, self.kernel)
        expected = sum(float((g * t).sum()) for g, t in zip(grads, tangents, strict=True))
        assert float(slope) == pytest.approx(expected, rel=1e-4)

    def test_second_derivatives_equal_xla(self):
        def curvature(convolve):
            def loss(x, w):
                return jnp.tanh(convolve(x, w)).sum()

            def slope(x, w):
                return sum((g**2).sum() for g in jax.grad(loss, (0, 1))(x, w))

            return jax.jit(jax.grad(slope, (0, 1)))(self.images, self.kernel)

        ours = curvature(lambda x, w: convolution(x, w, PLAIN))
        theirs = curvature(lambda x, w: xla_convolution(x, w, PLAIN))
        for a, b in zip(ours, theirs, strict=True):
            assert error(a, np.asarray(b, np.float64)) < 1e-4

    @pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
    def test_vmap_equals_separate_calls(self, axes):
        images, kernels = random(2, (3, 2, 6, 7, 3), (3, 3, 3, 3, 4))
        given = [a if axis == 0 else a[0] for a, axis in zip((images, kernels), axes, strict=True)]

        def grads(x, w):
            return jax.value_and_grad(lambda x, w: (convolution(x, w, PLAIN) ** 2).sum(), (0, 1))(x, w)

        together = jax.jit(jax.vmap(grads, axes))(*given)
        for member in range(3):
            alone = grads(*(a[member] if axis == 0 else a for a, axis in zip(given, axes, strict=True)))
            for actual, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
                np.testing.assert_allclose(actual[member], expected, rtol=1e-5)


@needs_library
@given(
    st.tuples(st.integers(1, 3), st.integers(3, 9), st.integers(3, 9)), st.sampled_from([1, 3, 16, 24]),
    st.sampled_from([16, 32, 48, 80]), st.sampled_from([1, 3]), st.sampled_from([1, 2]), st.integers(0, 2**31),
)  # fmt: skip
def test_a_residual_is_added_in_the_epilogue(positions, inputs, outputs, size, stride, seed):
    window = Window((stride, stride), ((size // 2, size // 2),) * 2, (1, 1), 1)
    images, kernel = random(seed, (*positions, inputs), (size, size, inputs, outputs))
    plain = np.asarray(convolution(images, kernel, window), np.float64)
    (residual,) = random(seed + 1, plain.shape)
    text = str(jax.make_jaxpr(lambda x: convolution_with_epilogue(x, kernel, window, residual=residual))(images))
    assert "residual=True" in text
    actual = convolution_with_epilogue(images, kernel, window, residual=residual, nonlinearity="relu")
    assert error(actual, np.maximum(plain + residual, 0)) < CLOSE


@needs_library
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("size", "window"), [
    (3, Window((1, 1), ((3, 0), (0, 0)), (1, 1), 1)), (2, Window((1, 1), ((2, 2), (2, 2)), (1, 1), 1)),
    (5, Window((2, 2), ((2, 2), (2, 2)), (2, 2), 1)), (3, Window((2, 2), ((0, 1), (1, 0)), (2, 2), 1)),
])  # fmt: skip
def test_a_residual_is_added_with_any_window(size, window, dtype):
    """For these, oneDNN 2.6 uses a matrix product and would add the wrong elements."""
    if dtype == jnp.bfloat16 and not load().has_bfloat16:
        pytest.skip("this processor has no bfloat16 kernels, so `conv_library` returns XLA")
    images, kernel = (jnp.asarray(x, dtype) for x in random(0, (1, 6, 6, 16), (size, size, 16, 32)))
    plain = np.asarray(xla_convolution(images, kernel, window).astype(jnp.float32), np.float64)
    (residual,) = (jnp.asarray(x, dtype) for x in random(1, plain.shape))
    actual = convolution_with_epilogue(images, kernel, window, residual=residual, nonlinearity="relu").astype(
        jnp.float32
    )
    close = CLOSE if dtype == jnp.float32 else 0.01
    assert error(actual, np.maximum(plain + np.asarray(residual, np.float64), 0)) < close


@needs_library
def test_derivatives_with_an_epilogue_equal_those_of_separate_steps():
    images, kernel, scale, offset, residual = random(3, (2, 6, 7, 3), (3, 3, 3, 4), (4,), (4,), (2, 6, 7, 4))

    def at_once(*operands):
        x, w, a, b, y = operands
        return (convolution_with_epilogue(x, w, PLAIN, scale=a, offset=b, residual=y, nonlinearity="tanh") ** 2).sum()

    def in_steps(*operands):
        x, w, a, b, y = operands
        return (jnp.tanh(convolution(x, w, PLAIN) * a[None, None, None] + b[None, None, None] + y) ** 2).sum()

    operands, every = (images, kernel, scale, offset, residual), (0, 1, 2, 3, 4)
    for ours, theirs in zip(jax.grad(at_once, every)(*operands), jax.grad(in_steps, every)(*operands), strict=True):
        assert error(ours, np.asarray(theirs, np.float64)) < CLOSE
    members = jax.vmap(lambda x: convolution_with_epilogue(x, kernel, PLAIN, offset=offset, nonlinearity="relu"))
    actual = members(np.stack([images, 2 * images]))
    assert error(actual[1], np.asarray(members((2 * images)[None])[0], np.float64)) == 0


@needs_library
@pytest.mark.parametrize("name", sorted(NONLINEARITIES))
@pytest.mark.parametrize("outputs", [4, 16])
def test_derivatives_from_the_output_equal_those_of_separate_steps(name, outputs):
    """Without a scale, the slope is computed from the output; large inputs saturate the nonlinearity."""
    images, kernel, offset, residual = random(4, (2, 9, 9, 3), (3, 3, 3, outputs), (outputs,), (2, 9, 9, outputs))
    nonlinearity = NONLINEARITIES[name]

    def at_once(x, w, b, y):
        return convolution_with_epilogue(x, w, PLAIN, offset=b, residual=y, nonlinearity=name)

    def in_steps(x, w, b, y):
        return nonlinearity(convolution(x, w, PLAIN) + b[None, None, None] + y)

    operands = (images, kernel, offset, residual)
    tangents = tuple(0.5 * operand[::-1] for operand in operands)
    for ours, theirs in zip(*(jax.jvp(function, operands, tangents) for function in (at_once, in_steps)), strict=True):
        assert error(ours, np.asarray(theirs, np.float64)) < CLOSE

    def of_gradient(function):
        def gradient(w):
            return jax.grad(lambda x: (function(x, w, offset, residual) ** 2).sum())(images)

        return jax.grad(lambda w: (gradient(w) ** 2).sum())(kernel)

    assert error(of_gradient(at_once), np.asarray(of_gradient(in_steps), np.float64)) < CLOSE


@needs_library
def test_results_are_reproducible():
    images, kernel = random(0, (16, 20, 20, 16), (3, 3, 16, 32))
    run = jax.jit(jax.grad(lambda x, w: (convolution(x, w, PLAIN) ** 2).sum(), (0, 1)))
    first = run(images, kernel)
    for _ in range(5):
        assert all(np.array_equal(a, b) for a, b in zip(run(images, kernel), first, strict=True))


@needs_library
def test_concurrent_calls_give_the_same_results():
    given = [random(seed, (4, 12 + seed, 12, 8), (3, 3, 8, 8)) for seed in range(4)]
    alone = [np.asarray(convolution(*case, PLAIN)) for case in given]
    wrong = []

    def work(index):
        for _ in range(30):
            if not np.array_equal(convolution(*given[index], PLAIN), alone[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_library
@pytest.mark.many_processes
def test_memory_stays_bounded_over_a_thousand_shapes():
    """Runs in a child process, which drops XLA's programs, so that only the library's plans remain."""
    code = """
import gc, resource, sys
import jax, numpy as np
from cnnjax.ops.window import Window
from cnnjax.ops.native.convolution import convolution
from cnnjax.ops.native.library import load
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
sizes = []
for n in range(1000):
    window = Window((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    x = np.zeros((1, 5 + n % 40, 5 + n // 40, 3), np.float32)
    convolution(x, np.zeros((2, 2, 3, 9), np.float32), window).block_until_ready()
    if n % 100 == 99:
        jax.clear_caches()
        sizes.append(resident())
print(sizes[-1] - sizes[3], load().calls("few_channel_conv"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, not_by_onednn = map(int, done.stdout.split())
    assert grown < 64 * 2**20
    assert not_by_onednn == 0


@needs_library
@pytest.mark.parametrize(("channels", "by_dot"), [(24, True), (16, False), (100, True)])
def test_dispatch_of_the_kernel_gradient_of_1x1_convolutions(channels, by_dot):
    images, kernel = jnp.ones((4, 9, 9, channels)), jnp.ones((1, 1, channels, 64))
    window = Window((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    gradient = jax.jit(jax.grad(lambda w: convolution(images, w, window).sum()))
    text = gradient.lower(kernel).as_text()
    assert ("dot_general" in text) == by_dot
    assert ("cnnjax_convolution" in text) != by_dot


@needs_library
@pytest.mark.parametrize(("size", "padding", "dilation", "strides", "flipped"), [
    ((3, 3), ((1, 1), (1, 1)), (1, 1), (1, 1), True),
    ((3, 2), ((0, 2), (1, 0)), (1, 1), (1, 1), True),
    ((3, 5), ((0, 3), (4, 1)), (2, 1), (1, 1), True),
    ((3, 3), ((3, 0), (1, 1)), (1, 1), (1, 1), False),  # outputs whose windows miss the image
    ((3, 3), ((1, 1), (1, 1)), (1, 1), (2, 1), False),
])  # fmt: skip
def test_the_input_gradient_of_a_depthwise_convolution_uses_the_flipped_kernel(
    size, padding, dilation, strides, flipped
):
    images, kernel = random(0, (2, 9, 10, 24), (*size, 1, 24))
    window = Window(strides, padding, dilation, 24)
    result, back = jax.vjp(lambda x: convolution(x, kernel, window), images)
    (cotangent,) = random(1, result.shape)
    assert error(back(cotangent)[0], exact(images, kernel, window, cotangent)[1]) < CLOSE
    text = jax.jit(lambda y: back(y)[0]).lower(cotangent).as_text()
    assert (f'kind = "{INPUT_GRADIENT}"' in text) != flipped


@needs_library
def test_networks_use_the_library_on_the_cpu_and_xla_elsewhere():
    arch = create("resnet20_cifar", depths=(1,))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    assert rules.conv_library(jnp.dtype("float32")).startswith("oneDNN")
    variables = jax.eval_shape(lambda: init(arch, jax.random.key(0)))

    def loss(variables, images):
        from cnnjax import apply

        return apply(arch, variables, images, train=True)[0].logits.sum()

    step = jax.jit(jax.grad(loss))
    for platform in ("cpu", "cuda", "tpu"):
        if platform == "cpu":
            text = step.lower(variables, images).as_text()
        else:
            text = str(jax.export.export(step, platforms=[platform])(variables, images).mlir_module())
        assert ("cnnjax_convolution" in text) == (platform == "cpu")
        assert ("stablehlo.convolution" in text) == (platform != "cpu")


class TestLoading:
    def run(self, folder: Path, native: str = "1", **more: str) -> subprocess.CompletedProcess:
        code = f"""
from pathlib import Path
from cnnjax.ops.native import library
library.LIBRARY = Path({str(folder)!r}) / "libcnnjax.so"
import jax.numpy as jnp
from cnnjax.ops import dispatch
print(dispatch.conv_library(jnp.dtype("float32")))
"""
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "CNNJAX_NATIVE": native, **more},
            check=True,
        )

    def test_a_missing_library_prints_one_notice(self, tmp_path):
        self.prints_one_notice(tmp_path, "is not built")

    @pytest.mark.parametrize(
        "content",
        mostly_slow(
            [b"", b"no library", b"\x7fELF" + bytes(100), b"ELF" + library.seal(b"ELF")], 1, pytest.mark.many_processes
        ),
    )
    def test_a_broken_library_prints_one_notice(self, tmp_path, content):
        (tmp_path / "libcnnjax.so").write_bytes(content)
        self.prints_one_notice(tmp_path, "")

    def test_an_unrelated_library_prints_one_notice(self, tmp_path):
        (tmp_path / "libcnnjax.so").symlink_to(ctypes.util.find_library("c") or "libc.so.6")
        self.prints_one_notice(tmp_path, "")

    @needs_library
    def test_truncated_and_stale_libraries_are_not_loaded(self, tmp_path):
        """A truncated library would crash the process; a stale one would give other bits than its version implies."""
        whole, file = library.LIBRARY.read_bytes(), tmp_path / "libcnnjax.so"
        middle = len(whole) // 3
        damaged = whole[:middle] + bytes(8192) + whole[middle + 8192 :]
        for content in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), damaged):
            file.write_bytes(content)
            self.prints_one_notice(tmp_path, "was built from other sources, or is damaged")

    def prints_one_notice(self, folder, message):
        done = self.run(folder)
        assert done.stdout == "xla-cpu\n"
        (line,) = (line for line in done.stderr.splitlines() if "notice" in line)
        assert line.startswith("notice: the native library")
        assert message in line

    @needs_library
    def test_the_library_version_includes_everything_that_affects_the_bits(self):
        folder = library.LIBRARY.parent
        assert library.load().version.endswith(f", {cores()} thread{'s' * (cores() > 1)}")
        assert self.run(folder, OMP_THREAD_LIMIT="1").stdout.endswith(", 1 thread\n")
        assert " with ONEDNN_MAX_CPU_ISA=AVX2 " in self.run(folder, ONEDNN_MAX_CPU_ISA="AVX2").stdout

    def test_cnnjax_native_must_be_0_or_1(self, tmp_path):
        with pytest.raises(subprocess.CalledProcessError) as failed:
            self.run(tmp_path, native="off")
        assert "UserError: unknown CNNJAX_NATIVE 'off'" in failed.value.stderr

    def test_the_library_can_be_disabled(self, tmp_path):
        (tmp_path / "libcnnjax.so").write_bytes(b"no library")
        done = self.run(tmp_path, native="0")
        assert (done.stdout, "notice" in done.stderr) == ("xla-cpu\n", False)


@pytest.mark.parametrize(
    ("text", "most"), [("max 100000", None), ("150000 100000", 2), ("1000 100000", 1), ("?", None)]
)
def test_threads_follow_the_container_quota(tmp_path, text, most):
    (tmp_path / "cpu.max").write_text(text)
    bound = len(os.sched_getaffinity(0))
    assert cores(tmp_path / "cpu.max") == (bound if most is None else min(bound, most))
    assert cores(tmp_path / "missing") == bound


@pytest.mark.parametrize(("images", "kernel"), [
    (jnp.ones((1, 28, 28, 3)), jnp.ones((5, 5, 1, 6))),
    (jnp.ones((1, 28, 28, 3)), jnp.ones((5, 5, 3, 6), jnp.bfloat16)),
])  # fmt: skip
def test_a_kernel_that_does_not_fit_is_refused(images, kernel):
    window = Window((1, 1), ((2, 2), (2, 2)), (1, 1), 1)
    for function in (convolution, convolution_with_epilogue):
        with pytest.raises(ValueError, match="a kernel"):
            function(images, kernel, window)
    with pytest.raises(ValueError, match="must be float32"):
        convolution_with_epilogue(images, jnp.ones((5, 5, 3, 6)), window, offset=jnp.ones(5))


def test_empty_arrays_are_supported():
    """The kernels divide by the numbers of channels and rows, and oneDNN refuses some empty arrays."""
    window = Window((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert not jnp.any(convolution(jnp.ones((1, 12, 12, 0)), jnp.ones((3, 3, 0, 4)), window))
    assert convolution(jnp.ones((0, 12, 12, 3)), jnp.ones((3, 3, 3, 4)), window).shape == (0, 10, 10, 4)
