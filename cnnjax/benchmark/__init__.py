"""How fast a network trains and answers, here and in other libraries; and what a training step takes in memory.

Each peer is a process of its own that prepares, says what it is, and then waits to be told to run a lap of some steps
(`protocol`). `turns` lets one prepare after the other and then all take turns, so that a disturbance of the machine
hits them alike. Ours comes first: what it computes on, and how many steps a lap has, holds for all.

`work` is what a peer is told and tells; it and `machine` import no JAX, so that a peer without it does not load it.
"""
