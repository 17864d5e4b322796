"""The arguments of the application, and the options of its deployment."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.config.settings import Settings, SettingsError
from model.backends.cuda import CudaBackend
from model.backends.openvino import OpenVINOBackend

from .library import Arguments, Resources, UserConfig, apply, arguments


def message_of(given: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Arguments.model_validate(given)
    (error,) = caught.value.errors()
    return str(error["msg"])


def test_arguments_are_settings_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCIT_MAX_BATCH_SIZE", "3")
    monkeypatch.setenv("XCIT_MAX_QUEUE_SIZE", "100")
    settings = Arguments.model_validate({"max_batch_size": 4, "precision": "float32"}).read()
    assert (settings.max_batch_size, settings.max_queue_size) == (4, 100)
    assert settings.precision == "float32"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size=0: must be greater than or equal to 1"),
        ({"checkpont": "x"}, "checkpont is neither a setting nor a resource"),
        ({"port": 80}, "port has no effect behind Ray Serve; see http_options"),
        ({"device": "cuda"}, "device=cuda needs num_gpus: 1"),
        ({"min_replicas": 2}, "max_replicas=1 is less than min_replicas=2"),
        ({"num_gpus": 2}, "less than or equal to 1"),
        ({"num_cpus": 0}, "greater than or equal to 1"),
    ],
)
def test_invalid_arguments_are_refused_with_one_message(
    given: dict[str, Any], message: str
) -> None:
    assert message in message_of(given)


def test_an_invalid_variable_is_named_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCIT_DEVICE", "tpu")
    assert "XCIT_DEVICE=tpu: must be auto, cpu, cuda" in message_of({})


def test_replaced_settings_exist() -> None:
    assert set(arguments.REPLACED) <= set(Settings.model_fields)
    assert not set(Arguments.model_fields) & set(Settings.model_fields)


@pytest.mark.parametrize(
    ("given", "ongoing"),
    [
        ({}, 4 * 16),
        ({"max_batch_size": 8}, 4 * 8),
        ({"num_gpus": 1}, 4 * 64),
        ({"max_batch_size": 8, "max_queue_size": 20}, 20),
    ],
)
def test_a_replica_takes_four_of_the_largest_batches(given: dict[str, Any], ongoing: int) -> None:
    options = Arguments.model_validate(given).options()
    assert options["max_ongoing_requests"] == ongoing
    assert options["autoscaling_config"]["target_ongoing_requests"] == ongoing // 2
    assert options["max_queued_requests"] == given.get("max_queue_size", 256)


def test_no_backend_tries_larger_batches_than_assumed() -> None:
    assert OpenVINOBackend.largest_batch <= arguments.LARGEST_BATCH["cpu"]
    assert CudaBackend.largest_batch == arguments.LARGEST_BATCH["gpu"]


def test_open_requests_end_before_the_replica_does() -> None:
    options = Arguments.model_validate({"drain_timeout_s": 30}).options()
    assert options["graceful_shutdown_timeout_s"] > 30


def settings_for(resources: Resources, **given: Any) -> Settings:
    return apply(Arguments.model_validate({"num_gpus": 1} | given).read(), resources)


def test_decoding_threads_follow_the_cores_of_the_replica() -> None:
    resources = Resources(3, 0.0, alone=True)
    assert settings_for(resources).preprocess_workers == 3
    assert settings_for(resources, preprocess_workers=5).preprocess_workers == 5


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "cpu"), (1.0, "cuda"), (None, "auto")])
def test_a_replica_uses_a_gpu_only_if_ray_has_assigned_one(gpus: float | None, device: str) -> None:
    assert settings_for(Resources(1, gpus, alone=True)).device == device


@pytest.mark.parametrize("gpus", [0.5, 2.0])
def test_two_engines_never_share_a_gpu(gpus: float) -> None:
    with pytest.raises(SettingsError, match="needs a whole GPU, and uses only one: set it to 1"):
        settings_for(Resources(1, gpus, alone=True))


def test_user_config_has_no_other_settings() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        UserConfig.model_validate({"max_batch_size": 4})
