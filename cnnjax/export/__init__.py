"""Export of trained networks to files that need no cnnjax: StableHLO, ONNX, safetensors, a folder for the hub.

Every export is written to a temporary path, read again by a stand-alone program of `readers/` in another process,
compared with the network, and only then renamed.
"""
