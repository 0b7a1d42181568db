"""Sending a model to the hub, against a server of our own that speaks the hub's upload protocol."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from run_script import run_script


class Hub(BaseHTTPRequestHandler):
    """Takes a repository and one commit, and keeps the files; every file goes inside the commit."""

    files: ClassVar[dict[str, bytes]] = {}
    tokens: ClassVar[set[str | None]] = set()
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.tokens.add(self.headers.get("Authorization"))
        if self.refuses:
            return self.answer({"error": "you may not write here"}, status=403)
        if self.path == "/api/repos/create":
            return self.answer({"url": f"http://{self.headers['Host']}/someone/model", "name": "someone/model"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            return self.answer({"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(
                {"commitUrl": f"http://{self.headers['Host']}/someone/model/commit/1", "commitOid": "1", "hookOutput": ""}
            )
        return self.answer({}, status=404)

    def do_GET(self) -> None:
        self.answer({"id": "someone/model", "sha": "0", "siblings": []} if "/api/models/" in self.path else {})

    def answer(self, value: Any, *, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[type[Hub], str]]:
    handler = type("FreshHub", (Hub,), {"files": {}, "tokens": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def push(tmp_path: Path, address: str) -> Any:
    env = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_" + "a" * 34, "HF_HOME": str(tmp_path / "hf")}
    return run_script(
        "finetune", "--tiny", "--threads", "1", "--out", "run", "--push_to_hub", "someone/model", cwd=tmp_path, launcher=[], **env
    )


def test_the_whole_model_folder_is_sent(tmp_path: Path, hub: tuple[type[Hub], str]) -> None:
    handler, address = hub
    done = push(tmp_path, address)
    assert done.returncode == 0, done.stderr
    kept = {file.name: file.read_bytes() for file in (tmp_path / "run" / "model").iterdir()}
    assert {name: handler.files[name] for name in kept} == kept
    assert "sent to someone/model" in done.stdout
    assert handler.tokens == {"Bearer hf_" + "a" * 34}


def test_a_hub_that_refuses_costs_nothing_but_the_upload(tmp_path: Path, hub: tuple[type[Hub], str]) -> None:
    handler, address = hub
    handler.refuses = True
    done = push(tmp_path, address)
    assert done.returncode == 2
    assert "someone/model did not take it" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert (tmp_path / "run" / "result.json").exists()
