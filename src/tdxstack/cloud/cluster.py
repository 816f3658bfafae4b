"""A Kubernetes cluster: objects made from manifests, waited for, asked for their logs, and deleted.

Needs the ``kubernetes`` client: ``pip install 'tdxstack[kubernetes]'``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tdxstack.errors import NetworkFault, PlatformMissing, SystemFault, UsageError

INTERVAL = 0.5
TIMEOUT = 300.0
NAMESPACE = "default"
#: Kind of object -> API of the client, and the word in its methods' names.
KINDS: Mapping[str, tuple[str, str]] = {
    "Deployment": ("AppsV1Api", "deployment"),
    "DaemonSet": ("AppsV1Api", "daemon_set"),
    "StatefulSet": ("AppsV1Api", "stateful_set"),
    "Service": ("CoreV1Api", "service"),
    "ConfigMap": ("CoreV1Api", "config_map"),
    "Secret": ("CoreV1Api", "secret"),
    "Pod": ("CoreV1Api", "pod"),
    "Job": ("BatchV1Api", "job"),
}


class Cluster(AbstractContextManager["Cluster"]):
    """One cluster and one namespace of it. Every method raises NetworkFault where the cluster refuses or is away.

    Args:
        kubeconfig: its file; None takes the one that kubectl would.
        context: a context of that file; None takes its current one.
        server: the API server's URL, instead of a kubeconfig (for a proxy such as ``kubectl proxy``).
    """

    def __init__(
        self,
        kubeconfig: Path | None = None,
        *,
        namespace: str = NAMESPACE,
        context: str | None = None,
        server: str | None = None,
    ) -> None:
        self._client = _client()
        self.namespace = namespace
        if server is not None:
            configuration = self._client.Configuration()
            configuration.host = server
            self._api = self._client.ApiClient(configuration)
            return
        from kubernetes import config

        try:
            self._api = config.new_client_from_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig) if kubeconfig else None, context=context
            )
        except (config.ConfigException, OSError) as error:
            raise UsageError(f"no cluster: {error}", hint="kubectl config view") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """End the connections."""
        self._api.close()

    def version(self) -> str:
        """The server's version, e.g. ``v1.31.0``."""
        return str(self._call(self._client.VersionApi(self._api).get_code).git_version)

    def nodes(self) -> dict[str, bool]:
        """Nodes by name, and whether each is ready."""
        found = self._call(self._client.CoreV1Api(self._api).list_node)
        return {
            node.metadata.name: any(
                one.type == "Ready" and one.status == "True" for one in node.status.conditions or ()
            )
            for node in found.items
        }

    def create(self, manifest: Mapping[str, Any]) -> Any:
        """Make an object of a manifest in this namespace; the object as the cluster has it.

        Raises:
            UsageError: a kind that is none of ``KINDS``, or no name.
        """
        return self._call(self._method("create", _kind(manifest)), self.namespace, dict(manifest))

    def create_from_yaml(self, path: Path) -> list[Any]:
        """Make every object of a YAML file, in its order."""
        import yaml  # type: ignore[import-untyped]

        try:
            documents = [one for one in yaml.safe_load_all(path.read_text()) if one]
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"cannot read {path}: {error}") from None
        return [self.create(document) for document in documents]

    def get(self, kind: str, name: str) -> Any | None:
        """An object, or None where there is none."""
        return self._call(self._method("read", kind), name, self.namespace, absent_ok=True)

    def list(self, kind: str, selector: str = "") -> list[Any]:
        """The objects of a kind, those whose labels match ``selector`` (``app=redis``)."""
        found = self._call(self._method("list", kind), self.namespace, label_selector=selector)
        return list(found.items)

    def delete(self, kind: str, name: str) -> bool:
        """Delete an object; whether there was one."""
        return self._call(self._method("delete", kind), name, self.namespace, absent_ok=True) is not None

    def scale(self, name: str, replicas: int) -> None:
        """Set the replicas of a deployment."""
        body = {"spec": {"replicas": replicas}}
        api = self._client.AppsV1Api(self._api)
        self._call(api.patch_namespaced_deployment_scale, name, self.namespace, body)

    def pod_logs(self, name: str, container: str | None = None) -> str:
        """What a pod has written."""
        read = self._client.CoreV1Api(self._api).read_namespaced_pod_log
        if container is None:
            return str(self._call(read, name, self.namespace))
        return str(self._call(read, name, self.namespace, container=container))

    def wait_for_deployment(self, name: str, timeout: float = TIMEOUT) -> None:
        """Wait until every replica of a deployment is ready.

        Raises:
            SystemFault: it is not within ``timeout`` seconds, or is not there.
        """

        def ready() -> bool:
            found = self.get("Deployment", name)
            if found is None:
                raise SystemFault(f"there is no deployment {name} in {self.namespace}", hint="Cluster.create")
            return (found.status.ready_replicas or 0) >= (found.spec.replicas or 0)

        self._wait(ready, f"deployment {name} is not ready", timeout)

    def wait_for_job(self, name: str, timeout: float = TIMEOUT) -> None:
        """Wait until a job has succeeded.

        Raises:
            SystemFault: it has failed, is not there, or does not end in time.
        """

        def done() -> bool:
            found = self.get("Job", name)
            if found is None:
                raise SystemFault(f"there is no job {name} in {self.namespace}", hint="Cluster.create")
            if any(one.type == "Failed" and one.status == "True" for one in found.status.conditions or ()):
                raise SystemFault(f"job {name} has failed", hint="Cluster.pod_logs")
            return (found.status.succeeded or 0) >= (found.spec.completions or 1)

        self._wait(done, f"job {name} has not ended", timeout)

    def _wait(self, holds: Callable[[], bool], otherwise: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > deadline:
                raise SystemFault(f"{otherwise} within {timeout:g} s", hint="kubectl get pods, kubectl describe")
            time.sleep(INTERVAL)

    def _method(self, verb: str, kind: str) -> Callable[..., Any]:
        if kind not in KINDS:
            raise UsageError(f"no kind {kind!r}", hint=f"one of {', '.join(KINDS)}")
        api, word = KINDS[kind]
        method: Callable[..., Any] = getattr(getattr(self._client, api)(self._api), f"{verb}_namespaced_{word}")
        return method

    def _call(self, method: Callable[..., Any], *args: Any, absent_ok: bool = False, **options: Any) -> Any:
        from urllib3.exceptions import HTTPError

        try:
            return method(*args, **options)
        except self._client.ApiException as error:
            if error.status == 404 and absent_ok:
                return None
            raise NetworkFault(f"the cluster refuses: {error.status} {error.reason}", hint=_message(error)) from error
        except HTTPError as error:
            raise NetworkFault(f"the cluster cannot be reached: {error}", hint="kubectl cluster-info") from error


def _client() -> Any:
    try:
        from kubernetes import client
    except ImportError as error:
        raise PlatformMissing(
            f"the Kubernetes client is not installed: {error}", hint="pip install 'tdxstack[kubernetes]'"
        ) from None
    return client


def _kind(manifest: Mapping[str, Any]) -> str:
    if not isinstance(manifest.get("metadata"), Mapping) or not manifest["metadata"].get("name"):
        raise UsageError("a manifest without metadata.name", hint="see kubectl explain")
    return str(manifest.get("kind"))


def _message(error: Any) -> str | None:
    """The cluster's own words."""
    import json

    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return None
