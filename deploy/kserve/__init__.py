"""The Open Inference Protocol (v2) and KServe's v1, spoken by the guard; manifests for Kubernetes.

Nothing here knows how a model is reached: whoever serves gives an ``Ask``.
"""
