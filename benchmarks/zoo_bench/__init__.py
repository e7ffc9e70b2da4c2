"""Latency, throughput, memory and fidelity of parts and tasks on the backends that are here."""
