"""How an autoscaler follows the load: the settings of ``deploy/kubernetes`` against others.

    python -m benchmarks.autoscale --images DIR --out benchmarks/results/autoscale.md

One real server is measured; replicas of it, Prometheus, and the Horizontal Pod Autoscaler that KEDA
configures are simulated.
"""
