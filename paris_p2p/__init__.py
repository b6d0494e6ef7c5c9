"""paris-p2p: a peer-to-peer network that trains and runs decentralized video diffusion models."""

__version__ = "0.1.0"
