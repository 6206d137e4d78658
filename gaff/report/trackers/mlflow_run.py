# SPDX-License-Identifier: Apache-2.0
"""One MLflow run for one run of GAFF, whatever is stopped and started in between."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_STATUS: Mapping[str, str] = {"finished": "FINISHED", "failed": "FAILED"}  # else KILLED
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100  # of one request (MLflow's REST API, "Log Batch")
_LONGEST_VALUE = 500  # of a parameter, in the oldest servers
_STORES_HERE = ("sqlite:", "file:")
_NOT_IN_NAMES = re.compile(r"[^\w/. -]")
# MLflow's own are 120 s and 7 tries for each request; the worker tries again itself, and must come to an end.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class MlflowRun:
    """See :class:`gaff.report.trackers.worker.Backend`.

    Args:
        about: ``run_id``, ``name`` and ``parameters`` of the run, ``directory`` for the file that keeps MLflow's id.
        say: tells a person.
    """

    def __init__(self, about: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self._about, self._say = about, say
        self._uri = os.environ["MLFLOW_TRACKING_URI"]
        self._state = Path(about["directory"]) / "mlflow.json"
        self._metrics: list[Any] = []
        self._client: Any = None
        self._id = ""
        for key, value in _PATIENCE.items():
            os.environ.setdefault(key, value)

    def open(self) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self._uri)
        state = self._resumed() or self._created()
        self._id = state["run_id"]
        if not state.get("has_parameters"):
            self._send_parameters()
            self._keep({**state, "has_parameters": True})
        self._client.update_run(self._id, status="RUNNING")

    def _resumed(self) -> dict[str, Any] | None:
        """The run that an earlier call began on the same server, if it is still there."""
        from mlflow.exceptions import MlflowException

        try:
            state: dict[str, Any] = json.loads(self._state.read_text(encoding="utf-8"))
            if state["tracking_uri"] != self._uri:
                return None
            found = self._client.get_run(state["run_id"])
        except (OSError, ValueError, KeyError):
            return None
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return state if found.info.lifecycle_stage == "active" else None

    def _created(self) -> dict[str, Any]:
        name = os.environ.get("MLFLOW_RUN_NAME") or self._about["name"]
        tags = {"mlflow.runName": name, "gaff.run_id": self._about["run_id"]}
        run_id = self._client.create_run(self._experiment(), tags=tags).info.run_id
        return self._keep({"run_id": run_id, "tracking_uri": self._uri})

    def _keep(self, state: dict[str, Any]) -> dict[str, Any]:
        self._state.write_text(json.dumps(state), encoding="utf-8")
        return state

    def _send_parameters(self) -> None:
        from mlflow.entities import Param

        values = self._about["parameters"].items()
        given = [Param(_name(key), str(value)[:_LONGEST_VALUE]) for key, value in values]
        for first in range(0, len(given), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=given[first : first + _MOST_PARAMETERS])

    def _experiment(self) -> str:
        given = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if given:
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "gaff"
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def values(self, step: int, values: dict[str, float], at: float) -> None:
        from mlflow.entities import Metric

        self._metrics += [Metric(_name(tag), value, round(at * 1000), step) for tag, value in values.items()]

    def flush(self) -> None:
        while self._metrics:
            self._client.log_batch(self._id, metrics=self._metrics[:_MOST_METRICS])
            del self._metrics[:_MOST_METRICS]

    def close(self, outcome: str) -> None:
        self._client.set_terminated(self._id, _STATUS.get(outcome, "KILLED"))


def _name(tag: str) -> str:
    return _NOT_IN_NAMES.sub("_", tag)


def store_problem() -> tuple[str, str] | None:
    """What keeps MLflow from opening its store here: (what, remedy); None when nothing does.  Asks no server."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    try:
        from mlflow import MlflowClient

        if "://" not in uri or uri.startswith(_STORES_HERE):
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except ImportError as error:
        return f"MLflow does not work here: {error}", "pip install -U 'gaff[mlflow]' sqlalchemy alembic"
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return f"MLflow cannot use MLFLOW_TRACKING_URI={uri}: {why}", "name a server (http://HOST:5000) or another file"
    return None
