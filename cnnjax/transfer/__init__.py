"""Transfer learning: phases, proof of what was frozen, embeddings of a frozen backbone, probes."""
