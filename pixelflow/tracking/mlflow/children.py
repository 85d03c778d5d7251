"""A sweep in MLflow: a parent run and its children, created before any of them starts."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from pixelflow.tracking.mlflow.database import create_database, experiment_of
from pixelflow.tracking.mlflow.position import LOCK_NAME, STATE_NAME, MirrorState, lock_file, store_settings
from pixelflow.tracking.mlflow.sender import FOLDER_TAG, first_line
from pixelflow.tracking.mlflow.worker import ENVIRONMENT

logger = logging.getLogger(__name__)

PATIENCE = 20.0
"""Maximum seconds that a submission waits for MLflow."""
THREADS = 4
SWEEP_TAG = "pixelflow.sweep"


def schedule(
    children: Mapping[Path, Mapping[str, str]],
    *,
    uri: str,
    experiment: str,
    name: str,
    parent_run_id: str | None = None,
    announce: bool = True,
) -> dict[str, str]:
    """Creates the parent run and a SCHEDULED run with tags for each run folder, which the started run continues.

    No failure of MLflow raises: the mirrors of the runs create what is missing when the runs start.

    Args:
        children: Tags by run folder.
        uri: Address of MLflow.
        experiment: Name of the experiment.
        name: Name of the parent run.
        parent_run_id: The parent run, where it exists.
        announce: Whether the runs have not started; False creates only what is missing and leaves their states.

    Returns:
        uri, experiment and, if MLflow answered, parent_run_id.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    import mlflow.tracking  # noqa: F401, takes seconds, which must not count as waiting for the server

    known = {"uri": uri, "experiment": experiment} | ({"parent_run_id": parent_run_id} if parent_run_id else {})
    deadline, problems = time.monotonic() + PATIENCE, []

    def work() -> None:
        try:
            _schedule(children, known, name, deadline, announce)
        except Exception as error:  # of any kind: the jobs are submitted without MLflow
            problems.append(first_line(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE + 5)
    if problems or thread.is_alive():
        why = problems[0] if problems else f"no answer within {PATIENCE:.0f} s"
        logger.warning("MLflow at %s does not work (%s): a later job=sync sends what was missed", uri, why)
    return dict(known)


def end_parent(known: Mapping[str, str], *, failed: bool, artifacts: Sequence[Path] = ()) -> None:
    """Sends the end of the parent run.

    Args:
        known: The result of `schedule`.
        failed: Whether a run of the sweep has not finished.
        artifacts: Files for the parent run, such as the sweep's table.
    """
    from mlflow.tracking import MlflowClient

    if "parent_run_id" not in known:
        return
    client, parent = MlflowClient(known["uri"]), known["parent_run_id"]
    try:
        for path in artifacts:
            client.log_artifact(parent, str(path))
        client.set_terminated(parent, "FAILED" if failed else "FINISHED")
    except Exception as error:  # as in `schedule`
        logger.warning("MLflow at %s has not received the end of the sweep (%s)", known["uri"], first_line(error))


def _schedule(
    children: Mapping[Path, Mapping[str, str]], known: dict[str, str], name: str, deadline: float, announce: bool
) -> None:
    from mlflow.tracking import MlflowClient

    for folder in children:
        if not (folder / STATE_NAME).exists():
            store_settings(folder=folder, uri=known["uri"], experiment=known["experiment"], run_name=folder.name,
                           parent_run_id=None, artifact_root=None)  # fmt: skip
    state = MirrorState.load(next(iter(children)))
    if state.database is not None:
        create_database(state.database)
    client = MlflowClient(state.uri)
    experiment_id = experiment_of(client, state)
    if "parent_run_id" not in known:
        known["parent_run_id"] = _parent(client, experiment_id, name)
    if announce:
        client.update_run(known["parent_run_id"], status="RUNNING")

    def child(folder: Path) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"it is slow: not all runs were created within {PATIENCE:.0f} s")
        _child(client, experiment_id, folder, children[folder], known["parent_run_id"], announce)

    # A SQLite file has only one writer at a time.
    with ThreadPoolExecutor(1 if state.database is not None else THREADS) as pool:
        for job in [pool.submit(child, folder) for folder in children]:
            job.result()


def _parent(client: Any, experiment_id: str, name: str) -> str:
    mark = f"tags.`{SWEEP_TAG}` = '{name}'"
    found = client.search_runs([experiment_id], mark, order_by=["attributes.start_time ASC"], max_results=1)
    if found:
        return found[0].info.run_id
    return client.create_run(experiment_id, tags={SWEEP_TAG: name}, run_name=name).info.run_id


def _child(client: Any, experiment_id: str, folder: Path, tags: Mapping[str, str], parent: str, announce: bool) -> None:
    lock = lock_file(folder / LOCK_NAME, wait=False)
    if lock is None:  # its mirror is running and creates the run
        return
    try:
        state = replace(MirrorState.load(folder), parent_run_id=parent)
        marks = {**tags, "mlflow.parentRunId": parent}
        if state.run_id is None:
            run = client.create_run(experiment_id, tags={**marks, FOLDER_TAG: state.folder_id}, run_name=state.run_name)
            state = replace(state, experiment_id=experiment_id, run_id=run.info.run_id)
        elif not announce:
            from mlflow.entities import RunTag

            client.log_batch(state.run_id, tags=[RunTag(key, value) for key, value in marks.items()])
        if announce:
            client.update_run(state.run_id, status="SCHEDULED")
        state.save(folder)
    finally:
        lock.close()
