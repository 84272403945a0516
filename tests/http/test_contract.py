"""The two basic calls, submit and run, with the clients that people use."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.daemon.processes import a_daemon
from tests.http.fetch import PROGRAM, TOLD, script
from tests.http.servers import http_server


def submitted(web: httpx.Client, code: str = PROGRAM) -> str:
    """Keep a program, and return its hash."""
    return str(web.post("/submit", json={"code": code}).raise_for_status().json()["hash"])


def test_submit_returns_hash_and_url(web: httpx.Client) -> None:
    """POST /submit returns the hash and the path that runs the program, and the same values when it is repeated."""
    response = web.post("/submit", json={"code": PROGRAM})
    assert response.status_code == 200
    answer = response.json()
    assert answer == {"hash": answer["hash"], "url": f"/run/{answer['hash']}"}
    assert len(answer["hash"]) == 64
    assert web.post("/submit", json={"code": PROGRAM}).json() == answer


def test_run_returns_the_json_of_the_result(web: httpx.Client) -> None:
    """GET /run/HASH?prompt= returns status 200 and the JSON of the result, unchanged and not to be cached."""
    response = web.get(f"/run/{submitted(web)}", params={"prompt": "a b cé"})
    assert (response.status_code, response.content) == (200, '{"words":3,"last":"cé"}'.encode())
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("throw new RangeError('too far')", "too far"),
        ("throw 'a text'", "a text"),
        ("const nothing = 1;", "the program gave no result"),
    ],
)
def test_an_error_of_the_program_is_500(web: httpx.Client, code: str, message: str) -> None:
    """A program that throws or gives no result is status 500 with a body whose only member is `error`."""
    response = web.get(f"/run/{submitted(web, code)}")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]


def test_eight_digits_are_enough(web: httpx.Client) -> None:
    """The first 8 digits of a hash run the program."""
    hash = submitted(web)
    assert web.get(f"/run/{hash[:8]}?prompt=x").json() == {"words": 1, "last": "x"}


def test_curl(url: str, tmp_path: Path) -> None:
    """curl can submit and run a program."""
    assert shutil.which("curl"), "curl is not installed"
    command = ["curl", "-s", "--max-time", "20"]
    body = json.dumps({"code": PROGRAM})
    submit = [*command, "-H", "Content-Type: application/json", "-d", body, f"{url}submit"]
    answer = json.loads(subprocess.run(submit, capture_output=True, check=True).stdout)
    run = [*command, "-G", "--data-urlencode", "prompt=one & two", f"{url}{answer['url'][1:]}"]
    assert json.loads(subprocess.run(run, capture_output=True, check=True).stdout) == {"words": 3, "last": "two"}


def test_fetch(url: str) -> None:
    """`fetch` on Deno can submit, run, send a long prompt, read events, reach a limit, abort, and run 30 at once."""
    import deno

    done = subprocess.run(
        [deno.find_deno_bin(), "run", "--no-config", "--allow-net", "-"],
        input=script(url),
        capture_output=True,
        text=True,
        timeout=60,
        env={"NO_COLOR": "1", "HOME": "/nonexistent", "DENO_DIR": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == TOLD


def test_an_alias_stays_with_the_first_program(tmp_path: Path) -> None:
    """If other hashes begin with the same 8 digits, the alias stays with the program that was kept first.

    Finding such hashes takes too long. The test therefore adds two programs with invented hashes to the state folder.
    """
    with a_daemon(tmp_path) as daemon, http_server(daemon=daemon.socket) as url, httpx.Client(base_url=url) as web:
        hash = submitted(web)
    kept = tmp_path / "state/programs" / hash[:2]
    for digit in "0f":
        planted = kept / (hash[2:8] + digit * 56)
        planted.mkdir(mode=0o700)
        (planted / "source").write_text("return 'planted'")
    with a_daemon(tmp_path) as daemon, http_server(daemon=daemon.socket) as url, httpx.Client(base_url=url) as web:
        assert web.get(f"/run/{hash[:8]}?prompt=x").json() == {"words": 1, "last": "x"}
        assert web.get(f"/programs/{hash[:8]}").json()["hash"] == hash
        assert len(web.get("/programs").json()["programs"]) == 3
