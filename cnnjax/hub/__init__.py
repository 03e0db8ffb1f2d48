"""Published networks: download, cache, the networks in the package, model folders, and `load_pretrained`."""
