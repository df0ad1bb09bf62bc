"""Fixtures of the engine's tests; networks are compiled once and shared."""

from patchcore_engine.runtime import prepare_process

prepare_process()
