"""The application of Ray Serve."""

from ray import serve

from app.loading import load_model
from app.ray.arguments import Arguments
from app.ray.replica import Load, Replica

NAME = "xcit"  # of the deployment


def build(arguments: Arguments) -> serve.Application:
    """The application, for ``import_path: app.ray:build`` with ``args``."""
    return build_with(arguments, load_model)


def build_with(arguments: Arguments, load: Load) -> serve.Application:
    """The application with another way to load its model."""
    deployment = serve.deployment(name=NAME, **arguments.options())(serve.ingress()(Replica))
    return deployment.bind(arguments.model_dump(), load)
