"""The server as users start it: over HTTP, in a browser, and how it ends."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from PIL import Image

from hct_lightning.cli.plain import plain
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.deploy import load_artifact
from hct_lightning.tasks.serve import check

pytest.importorskip("litserve")

TOKEN = "a token of the tests"


class Served:
    """A server in a process of its own; `ask` gives status and JSON."""

    def __init__(self, artifact: Path, home: Path, environment: dict[str, str], port: int, *options: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = home / "server.txt"
        command = [sys.executable, "-m", "hct_lightning", "task=serve", f"serve.artifact={artifact}"]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, f"serve.port={port}", *options],
                stdout=file,
                stderr=file,
                cwd=home,
                env=environment | {"HCT_SERVE_TOKEN": TOKEN},
                start_new_session=True,
            )
        until = time.monotonic() + 120
        while self.health() != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)

    def health(self) -> int | None:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status
        except OSError:
            return None

    def ask(self, content: bytes, query: str = "", token: str = TOKEN, kind: str = "image/png") -> tuple[int, dict]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        request = urllib.request.Request(f"{self.url}/predict{query}", data=content, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=100) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def get(self, path: str) -> str:
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def memory_mb(self) -> float:
        """Of all its processes."""
        ps = subprocess.run(
            ["ps", "-o", "rss=", "-s", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return sum(map(int, ps.stdout.split())) / 1000

    def wait_until_nothing_stays(self) -> None:
        until = time.monotonic() + 10
        while self.memory_mb():
            assert time.monotonic() < until
            time.sleep(0.1)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """As Ctrl-C on a terminal does, to all its processes; the exit status."""
        os.killpg(self.process.pid, number)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def served(trained, environment, free_port, tmp_path_factory):
    home = tmp_path_factory.mktemp("serve")
    found = Served(
        trained / "artifacts" / "torchscript", home, environment, free_port(), "serve.max_mb=1", "serve.waiting=4"
    )
    yield found
    if found.process.poll() is None:
        os.killpg(found.process.pid, signal.SIGKILL)
        found.process.wait()


@pytest.fixture(scope="module")
def scenes(trained, environment) -> list[Path]:
    """Images that the small run has validated."""
    return sorted(Path(environment["HCT_DATA"]).glob("scenes/*128px*/valid/*/*.jpg"))[:4]


def test_its_answers_are_those_of_predict(served, scenes, trained, cli, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(map(str, scenes)))
    options = (f"predict.input={tmp_path}/list.txt", f"predict.output={tmp_path}/all.csv", "trainer.precision=32-true")
    cli("task=predict", f"run={trained}", *options, cwd=tmp_path)
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    for scene, row in zip(scenes, rows, strict=True):
        status, answer = served.ask(scene.read_bytes())
        assert (status, answer["class"]) == (200, row["class"])
        given = {f"p_{name}": probability for name, probability in answer["probabilities"].items()}
        assert given == pytest.approx({name: float(row[name]) for name in given}, abs=1e-4)
        assert 0 < answer["network_ms"] <= answer["time_ms"]


def test_bad_requests_get_their_reason(served, scenes):
    whole = scenes[0].read_bytes()
    assert served.ask(b"hello") == (400, {"detail": "not an image that is taken; send PNG, JPEG or TIFF"})
    assert served.ask(whole[: len(whole) // 2])[0] == 400
    assert served.ask(bytes(1_000_001))[0] == 413
    assert served.ask(whole, token="another") == (401, {"detail": "a token is needed"})
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + whole + b"\r\n--x--\r\n"
    assert served.ask(form, kind="multipart/form-data; boundary=x")[0] == 200


def test_overload_is_refused_and_others_are_answered(served, scenes):
    """Four of twelve at a time, each with a map, which takes long."""
    answers = []

    def ask() -> None:
        answers.append(served.ask(scenes[0].read_bytes(), "?map=true"))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = [status for status, _ in answers]
    assert sorted(set(statuses)) == [200, 503]
    assert statuses.count(200) >= 4
    assert all("map" in answer for status, answer in answers if status == 200)
    figures = served.get("/metrics")
    assert f'hct_requests_total{{status="503"}} {statuses.count(503)}.0' in figures
    assert "hct_requests_inside 0.0" in figures


def test_the_page_in_a_browser(served, chromium):
    """A photograph is dropped and answered, zoomed by wheel, keys and buttons, and its map laid over it."""
    image = Image.effect_noise((900, 600), 80).convert("RGB")
    file = io.BytesIO()
    image.save(file, "JPEG")
    page = chromium.new_page(viewport={"width": 1200, "height": 800})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served.url)
    page.fill("#secret", TOKEN)
    # As the browser gives it to a page: a DataTransfer with a file.
    page.evaluate(
        """([bytes, name]) => {
            const dropped = new DataTransfer();
            dropped.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
            document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
        }""",
        [list(file.getvalue()), "<img src=x onerror=alert(1)>.jpg"],
    )
    page.wait_for_selector("#bars li")
    assert page.locator("#bars li").count() == 4
    drawn = page.evaluate(
        "[...document.querySelectorAll('.bar')].map(b => parseFloat(getComputedStyle(b).backgroundSize))"
    )
    assert sum(drawn) == pytest.approx(100, abs=0.1)
    assert drawn == sorted(drawn, reverse=True)
    assert page.inner_text("#status") == "<img src=x onerror=alert(1)>.jpg"
    assert page.inner_text("#class") in ("dots", "grid", "rings", "stripes")

    def scale() -> float:
        return page.evaluate("new DOMMatrix(getComputedStyle(document.getElementById('scene')).transform).a")

    page.wait_for_selector("#viewer", state="visible")  # the image is there, too
    fitted = scale()
    assert fitted < 1
    page.hover("#viewer")
    page.mouse.wheel(0, -400)
    assert scale() == pytest.approx(fitted * 2.718, rel=0.01)
    page.focus("#viewer")
    page.keyboard.press("1")
    assert scale() == pytest.approx(1)
    assert page.inner_text("#zoom").startswith("100")
    before = page.locator("#image").bounding_box()["x"]
    page.keyboard.press("ArrowRight")
    assert page.locator("#image").bounding_box()["x"] == pytest.approx(before - 60)
    page.click("#fit")
    assert scale() == pytest.approx(fitted)
    page.click("#where")
    page.wait_for_selector("#map", state="visible")
    assert page.evaluate("[map.width, map.height, map.style.left, map.style.width]") == [8, 8, "150px", "600px"]
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert said == []
    assert all(url.startswith((f"{served.url}/", "blob:", "data:")) for url in asked)
    page.close()


def test_ctrl_c_ends_it_in_order(served):
    assert served.stop() == 0
    log = served.log.read_text().splitlines()
    assert log[-1] == "stopped"
    assert len(log) == 2, log
    assert TOKEN not in str(log)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{served.url}/health")


def test_it_ends_when_one_of_its_processes_has_died(trained, environment, free_port, tmp_path):
    """The one that holds the artifact; so a supervisor starts it anew, where it would refuse every request."""
    served = Served(trained / "artifacts" / "torchscript", tmp_path, environment, free_port())
    found = subprocess.run(
        ["pgrep", "-s", str(served.process.pid), "-f", "spawn_main"], capture_output=True, text=True, check=True
    )
    (holder,) = map(int, found.stdout.split())
    os.kill(holder, signal.SIGKILL)
    assert served.process.wait(30) == 1
    reason = "error: a process of the server has died; was the machine short of memory?"
    assert served.log.read_text().splitlines()[-1] == reason
    served.wait_until_nothing_stays()


def test_what_is_no_artifact_ends_with_a_line(cli, tmp_path):
    done = cli("task=serve", "serve.artifact=gone", cwd=tmp_path, status=1)
    assert "gone is no artifact: it holds no artifact.json" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("port", 80, "give one from 1024 to 65535"),
        ("port", "abc", "give one from 1024 to 65535"),
        ("timeout", "soon", "give a number above 0"),
        ("map_tiles", "all", "give 0 to 32"),
        ("host", "example.org", "give 127.0.0.1, or"),
        ("waiting", 0, "give a number above 0"),
        ("max_mb", -1, "give a number above 0"),
        ("map_tiles", 100, "give 0 to 32"),
        ("token", "", "it is empty, or a number"),
        ("token", 123e4, "it is empty, or a number"),
    ],
)
def test_wrong_options_are_named(option, value, reason):
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        options = plain(compose("config", ["task=serve", "serve.token=null"]).serve)
    check(options)
    with pytest.raises(ValueError, match=rf"serve\.{option}={value}: {reason}"):
        check(options | {option: value})


@pytest.mark.slow
def test_without_litserve_the_extra_is_named(tmp_path, environment):
    code = "import sys; sys.modules['litserve'] = None\nfrom hct_lightning.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "task=serve", "serve.artifact=gone"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 1
    assert "litserve is not installed: pip install 'hct-lightning[serve]'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_32_clients_for_a_minute(trained, scenes, environment, free_port, tmp_path):
    """Every request is answered or refused, the answers are the artifact's own, and the memory does not grow."""
    folder = trained / "artifacts" / "torchscript"
    model = load_artifact(folder)
    read = FileReader(Decoding.from_json(model.description["decoding"]))
    exact = {scene: model(read(str(scene))[None])[0].tolist() for scene in scenes}
    served = Served(folder, tmp_path, environment, free_port(), "serve.waiting=24")
    statuses: Counter[int] = Counter()
    wrong, held, until = [], [], time.monotonic() + 60

    def ask(i: int) -> None:
        while time.monotonic() < until:
            scene = scenes[i % len(scenes)]
            status, answer = served.ask(scene.read_bytes())
            statuses[status] += 1
            if status == 200 and list(answer["probabilities"].values()) != pytest.approx(exact[scene], abs=1e-5):
                wrong.append(answer)
            if status == 503:
                time.sleep(0.02)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        time.sleep(5)
        held.append(served.memory_mb())
    for thread in threads:
        thread.join()
    print(dict(statuses), held)
    assert not wrong
    assert statuses.keys() == {200, 503}
    assert statuses[200] > 500
    assert held[-1] < 1.05 * max(held[1:4]) + 10, held
    assert served.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_nothing_stays_when_it_is_killed(trained, environment, free_port, tmp_path):
    served = Served(trained / "artifacts" / "torchscript", tmp_path, environment, free_port())
    assert served.memory_mb() > 0
    served.process.kill()
    served.process.wait()
    served.wait_until_nothing_stays()
