"""A registry and a cluster, asked over HTTP: small servers on loopback that keep what they are given."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tdxstack.cloud.cluster import Cluster
from tdxstack.cloud.registry import Registry
from tdxstack.errors import NetworkFault, SystemFault, UsageError

DIGEST = "sha256:" + "ab" * 32


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers by ``routes``: (method, path) -> (status, headers, body), or what ``answer`` says."""

    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        status, headers, document = self.server.answer(self.command, self.path, self.headers, body)  # type: ignore[attr-defined]
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_DELETE = do_PATCH = _serve  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _serving(answer: Any) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.answer = answer  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Images:
    """A registry with two repositories, one of which has two pages of tags."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.authorized = True

    def __call__(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], Any]:
        if headers.get("Authorization") == "Basic " + base64.b64encode(b"me:wrong").decode():
            return 401, {}, {}
        place, _, query = path.partition("?")
        if method == "DELETE":
            self.deleted.append(place)
            return 202, {}, {}
        routes: dict[str, tuple[int, dict[str, str], Any]] = {
            "/v2/": (200, {}, {}),
            "/v2/_catalog": (200, {}, {"repositories": ["library/redis", "nginx"]}),
            "/v2/nginx/manifests/latest": (200, {"Docker-Content-Digest": DIGEST}, {"schemaVersion": 2}),
            "/v2/broken/tags/list": (500, {}, {}),
        }
        if place == "/v2/nginx/tags/list":
            if "last=1" in query:
                return 200, {}, {"tags": ["1.27"]}
            return 200, {"Link": '</v2/nginx/tags/list?n=100&last=1>; rel="next"'}, {"tags": ["latest"]}
        return routes.get(place, (404, {}, {"errors": []}))


def test_registry() -> None:
    images = _Images()
    with _serving(images) as url:
        registry = Registry(url)
        assert registry.is_available()
        assert registry.repositories() == ["library/redis", "nginx"]
        assert registry.tags("nginx") == ["latest", "1.27"]
        assert registry.tags("absent") == []
        assert registry.is_image_exist("nginx")
        assert not registry.is_image_exist("nginx", "9")
        assert registry.digest("nginx") == DIGEST
        assert registry.manifest("nginx") == {"schemaVersion": 2}
        registry.delete("nginx", DIGEST)
        assert images.deleted == [f"/v2/nginx/manifests/{DIGEST}"]
        with pytest.raises(NetworkFault, match="HTTP 500"):
            registry.tags("broken")
        with pytest.raises(NetworkFault, match="HTTP 401"):
            Registry(url, user="me", password="wrong").repositories()
        assert not Registry(url, user="me", password="wrong").is_available()
    with pytest.raises(NetworkFault):
        registry.repositories()


@pytest.mark.parametrize("name", ["Nginx", "../v2", "a//b", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="no repository"):
        Registry("http://127.0.0.1:1").tags(name)


class _Cluster:
    """The objects of one namespace, as an API server keeps them; a deployment gets ready at the second look."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.looks = 0

    def __call__(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], Any]:
        place, _, query = path.partition("?")
        if place == "/version/":
            return 200, {}, {"gitVersion": "v1.31.0", **dict.fromkeys(_VERSION, "")}
        if place == "/api/v1/nodes":
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            return 200, {}, {"kind": "NodeList", "items": [{"metadata": {"name": "one"}, "status": ready}]}
        if place.endswith("/log"):
            return 200, {"Content-Type": "text/plain"}, b"ready to accept connections\n"
        if method == "POST":
            made = json.loads(body)
            key = f"{place}/{made['metadata']['name']}"
            if key in self.objects:
                return 409, {}, {"message": f"{key} already exists"}
            self.objects[key] = made
            return 201, {}, made
        if method == "PATCH":
            self.objects[place.removesuffix("/scale")]["spec"]["replicas"] = json.loads(body)["spec"]["replicas"]
            return 200, {}, {"kind": "Scale", "spec": {"replicas": 2}}
        if method == "DELETE":
            return (200, {}, {"status": "Success"}) if self.objects.pop(place, None) else (404, {}, {})
        return self._get(place, query)

    def _get(self, place: str, query: str) -> tuple[int, dict[str, str], Any]:
        if place in self.objects:
            found = dict(self.objects[place])
            if found["kind"] == "Deployment":
                self.looks += 1
                found["status"] = {"readyReplicas": found["spec"]["replicas"] if self.looks > 1 else 0}
            if found["kind"] == "Job":
                failed = [{"type": "Failed", "status": "True"}] if "bad" in place else None
                found["status"] = {"succeeded": 1, "conditions": failed}
            return 200, {}, found
        below = [one for key, one in self.objects.items() if key.startswith(f"{place}/")]
        if below:
            return 200, {}, {"kind": "List", "items": below if "app%3Dredis" in query or not query else []}
        return 404, {}, {"message": "not found"}


_VERSION = ("major", "minor", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform")


def _deployment(name: str) -> dict[str, Any]:
    labels = {"app": "redis"}
    container = {"name": "redis", "image": "redis:7"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels}, "spec": spec}


def _job(name: str) -> dict[str, Any]:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "one", "image": "one"}]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}


def test_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    pytest.importorskip("kubernetes")
    monkeypatch.setattr("tdxstack.cloud.cluster.INTERVAL", 0.01)
    with _serving(_Cluster()) as url, Cluster(server=url, namespace="tests") as cluster:
        assert cluster.version() == "v1.31.0"
        assert cluster.nodes() == {"one": True}
        cluster.create(_deployment("redis"))
        with pytest.raises(NetworkFault, match="409") as caught:
            cluster.create(_deployment("redis"))
        assert "already exists" in (caught.value.hint or "")
        cluster.wait_for_deployment("redis", timeout=60)
        cluster.scale("redis", 2)
        found = cluster.get("Deployment", "redis")
        assert found is not None
        assert found.spec.replicas == 2
        assert [one.metadata.name for one in cluster.list("Deployment", "app=redis")] == ["redis"]
        assert "ready" in cluster.pod_logs("redis-0")
        assert "ready" in cluster.pod_logs("redis-0", "redis")
        assert cluster.delete("Deployment", "redis")
        assert not cluster.delete("Deployment", "redis")
        assert cluster.get("Deployment", "redis") is None
        manifests = tmp_path / "all.yaml"
        manifests.write_text("\n---\n".join(json.dumps(one) for one in (_job("good"), _job("bad"))))
        assert len(cluster.create_from_yaml(manifests)) == 2
        cluster.wait_for_job("good", timeout=60)
        with pytest.raises(SystemFault, match="has failed"):
            cluster.wait_for_job("bad")
        with pytest.raises(SystemFault, match="no deployment"):
            cluster.wait_for_deployment("absent")
        with pytest.raises(UsageError, match="no kind"):
            cluster.create({"kind": "Gadget", "metadata": {"name": "x"}})
        with pytest.raises(UsageError, match=r"metadata\.name"):
            cluster.create({"kind": "Pod"})
    with pytest.raises(UsageError, match="no cluster"):
        Cluster(tmp_path / "absent")
