"""Stands between the clients and TorchServe, whose HTTP server bounds neither time nor forms."""
