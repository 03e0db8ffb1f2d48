"""The pages in headless Chromium, at two widths, light and dark, with the pointer on every chart."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from cnnjax.report import charts, page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (apt install chromium)")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--allow-file-access-from-files", "--virtual-time-budget=5000",
)  # fmt: skip
PROBE = """
<script>
window.addEventListener('load', () => {
  const values = [...document.querySelectorAll('figure[data-chart]')].map(figure => {
    const svg = figure.querySelector('svg'), box = svg.getBoundingClientRect();
    const before = figure.querySelector('.value').textContent;
    svg.dispatchEvent(new PointerEvent('pointermove', {clientX: box.right - 2, clientY: box.top + 20}));
    const during = figure.querySelector('.value').textContent;
    svg.dispatchEvent(new PointerEvent('pointerleave'));
    return [before, during, figure.querySelector('.value').textContent];
  });
  const images = [...document.images];
  parent.postMessage(JSON.stringify({
    values, width: innerWidth, needed: document.documentElement.scrollWidth,
    background: getComputedStyle(document.body).backgroundColor, text: getComputedStyle(document.body).color,
    broken: images.filter(image => !image.naturalWidth).length, images: images.length,
    requests: performance.getEntriesByType('resource').filter(entry => !entry.name.startsWith('data:')).length,
  }), '*');
});
</script>
"""


def measure_page(html, folder, width, dark, probe=PROBE):
    """Return the measurements that the probe script reports in a page of this width."""
    (folder / "page.html").write_text(html.replace("</body>", f"{probe}</body>"))
    (folder / "frame.html").write_text(
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe><pre></pre>'
        "<script>addEventListener('message', e => { document.querySelector('pre').textContent = e.data; });</script>"
    )
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = subprocess.run(
        [CHROMIUM, *OPTIONS, scheme, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--dump-dom",
         (folder / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return json.loads(unescape(re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)[1]))


def write_small_page(folder):
    rows = [
        {"epoch": n, "lr": 0.1 / n, "gradient_norm": 2.0 / n, **{f"{part}_{figure}": 1 / (n + 1)
         for part in ("train", "validation") for figure in ("loss", "top1")}}
        for n in range(1, 6)
    ]  # fmt: skip
    bins = [(10 * n, n / 15, n / 16) for n in range(15)]
    body = [
        "<h1>a_name_of_a_run_that_is_as_long_as_names_are,optimizer.lr=0.001,train.epochs=30,seed=2</h1>",
        page.curves(rows, 5, "loss"),
        page.table(["option", *(f"value {n}" for n in range(12))], [["x" * 60, *map(str, range(12))]] * 3),
        charts.reliability_chart("Confidence and accuracy", [n / 15 for n in range(16)], bins),
    ]
    page.write_page(folder / "small.html", "small", body)
    return (folder / "small.html").read_text()


@needs_chromium
@pytest.mark.many_processes
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_fits_its_window_follows_the_theme_and_shows_values(tmp_path, width, dark):
    measured = measure_page(write_small_page(tmp_path), tmp_path, width, dark)
    assert measured["width"] == width
    assert measured["needed"] <= width
    assert measured["background"] == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    assert measured["text"] == ("rgb(230, 237, 243)" if dark else "rgb(31, 35, 40)")
    assert measured["requests"] == 0
    during = [values[1] for values in measured["values"]]
    assert during == [
        "epoch 5: train 0.1667, validation 0.1667", "epoch 5: train 16.67 %, validation 16.67 %",
        "epoch 5: rate 0.020000", "epoch 5: norm 0.4000",
        "confidence 93 to 100 %: 140 images, 87.5 % accuracy at 93.3 % confidence",
    ]  # fmt: skip
    assert all(before == after != values for before, values, after in measured["values"])
