"""The parts of a training run: schedule, Lightning module, callbacks, folder."""
