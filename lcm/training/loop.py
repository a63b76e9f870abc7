"""The loop of a run: when to step, log, save, draw, stop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from accelerate.utils import gather_object

from lcm.adapter.names import WEIGHTS_NAME
from lcm.config.run import to_yaml
from lcm.data.batch import SampleBatch
from lcm.data.report import write_report
from lcm.outputs.checkpoint import RunState, set_aside
from lcm.outputs.finished import steps_of
from lcm.outputs.folder import CARD_NAME, CONFIG_NAME
from lcm.outputs.gauges import Values, concerns, is_of_grid, said
from lcm.outputs.metrics import MetricsLog, read_metrics
from lcm.outputs.progress import Progress, Window
from lcm.outputs.saving import Saver
from lcm.outputs.trackers import log_numbers, start_trackers
from lcm.system.atomic import replacing
from lcm.system.disk_space import warn_if_short
from lcm.system.paths import write_text
from lcm.system.signals import Stopped, StopRequest
from lcm.training.metrics import measure
from lcm.training.plan import guess_output_need, plan_of, summarize
from lcm.training.run import Run
from lcm.training.state import TrainState
from lcm.training.step import train_step

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a run from its present state to its last step: `fit()`."""

    def __init__(self, run: Run, state: TrainState, stop: StopRequest | None = None) -> None:
        self.run, self.state, self.stop = run, state, stop or StopRequest()
        self.stopping = False  # whether any process was asked to stop, as all of them know it
        output = run.config.output
        self.saver = Saver(output.folder, output.checkpoints_total_limit, self._export)
        self.metrics: MetricsLog | None = None
        schedule = run.family.schedule
        self.window = Window(schedule.num_train_timesteps, run.machine.device)

    @property
    def is_done(self) -> bool:
        """Whether the last update was made."""
        return self.state.step == self.run.facts.num_updates

    def fit(self) -> None:
        """Trains to the last step and writes the verified result, its card and its picture.

        Raises Stopped after a step and its checkpoint, on all processes, when one of them was asked
        to.
        """
        accelerator = self.run.machine.accelerator
        try:
            self._fit()
        except Stopped:
            accelerator.end_training()  # trackers hold lines back
            raise
        accelerator.end_training()

    def _fit(self) -> None:
        run, state = self.run, self.state
        if run.machine.is_main:
            need = guess_output_need(run, plan_of(run, state.step), self.record())
            warn_if_short([need])
            self.open_folder()
        if self.stop.asked:  # what was being imported may have kept it from being heard
            raise Stopped(self.stop.signum or signal.SIGTERM)
        settings = run.facts.settings
        start_trackers(run.machine.accelerator, run.config.output, settings, state.step)
        logger.info("%s", summarize(run, state))
        if self._lacks_grid():
            run.publisher.validate(state.step, note=self._note)
        if self._lacks_evaluation():
            run.publisher.evaluate(state.step, note=self._note)
        if not self.is_done:
            with self.stop.deferred():
                self._train()
            if self.stopping:
                raise Stopped(signal.SIGTERM)  # another process was asked to
        if run.machine.is_main:
            run.publisher.publish(state.step, self._note)
        run.machine.accelerator.wait_for_everyone()

    def open_folder(self) -> None:
        """Makes the output folder, or makes it ready to go on in."""
        run, output = self.run, self.run.config.output
        folder = output.folder
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / CONFIG_NAME) as partial:
            write_text(partial, to_yaml(run.facts.settings))
        cut = run.inputs.dataset().first_crop
        write_report(folder, run.facts.report, run.loaded.records, cut)
        self.metrics = MetricsLog(folder, self.state.step)
        for damaged in self.state.damaged:
            logger.warning("%s is now %s", damaged, set_aside(damaged).name)
        # a card of a shorter or a longer run says that all is done
        if not self.is_done or steps_of(folder, output.weights_file) not in (None, self.state.step):
            (folder / CARD_NAME).unlink(missing_ok=True)
        if self.state.step:
            self.saver.complete(self.state.step)

    def _lacks_grid(self) -> bool:
        """Whether the grid of the present step is to be drawn before training goes on: a kill can
        come between a checkpoint and its grid.
        """
        step = self.state.step
        if step == 0:
            return self._draws_at(step)
        if not self._draws_at(step) or self.is_done:
            return False
        # as the main process sees it
        return gather_object([not self.run.publisher.grid_path(step).exists()])[0]

    def _draws_at(self, step: int) -> bool:
        """Whether a grid belongs to this step."""
        validation = self.run.config.validation
        return validation.draws and step % validation.validation_steps == 0

    def _evaluates_at(self, step: int) -> bool:
        """Whether the captions are measured after this step."""
        every = self.run.config.validation.evaluate_steps
        return every > 0 and step % every == 0

    def _lacks_evaluation(self) -> bool:
        """Whether those of the present step are to be measured before training goes on."""
        step = self.state.step
        if not self._evaluates_at(step) or (step and self.is_done):
            return False
        # as the main process sees it
        return gather_object([not self._has_line(step)])[0]

    def _has_line(self, step: int) -> bool:
        """Whether the pictures of a step are measured already."""
        lines = read_metrics(self.run.config.output.folder)
        return any(is_of_grid(line) and line["step"] == step for line in lines)

    def _train(self) -> None:
        """Steps, with their lines, checkpoints and grids, until the last one or until any process
        is asked to stop.
        """
        run, state = self.run, self.state
        batches = run.inputs.batches(range(state.step, run.facts.num_updates))
        progress = Progress(
            run.machine.accelerator,
            self.window,
            self.metrics,
            step=state.step,
            total=run.facts.num_updates,
            samples_per_step=run.facts.samples_per_step,
        )
        with closing(progress):  # what is said after an error begins a line
            self._train_on(batches, progress)

    def _train_on(self, batches: Iterator[SampleBatch], progress: Progress) -> None:
        run, state, config = self.run, self.state, self.run.config
        while not self.is_done and not self.stopping:
            output = train_step(run, state, batches, self._asked)
            self.window.add(output.loss, output.times)
            self.stopping = output.stopping
            progress.advance()
            ending = self.is_done or self.stopping
            saving = state.step % config.output.checkpointing_steps == 0 or ending
            if saving or state.step % config.output.logging_steps == 0:
                # no line is half lost behind a checkpoint
                progress.write_line(state.step, measure(run, state, output))
            with progress.paused():
                if saving:
                    self.save()
                if self._draws_at(state.step) and not ending:
                    self.stopping = not run.publisher.validate(state.step, self._asked, self._note)
                if self._evaluates_at(state.step) and not (ending or self.stopping):
                    self.stopping = not run.publisher.evaluate(state.step, self._asked, self._note)
            if self.stopping and not saving:
                progress.write_line(state.step, measure(run, state, output))
                self.save()

    def _asked(self) -> bool:
        return self.stop.asked

    def _note(self, step: int, values: Values) -> None:
        """Logs the numbers of a grid, or of the captions of --evaluate_steps, on the main process,
        before its picture is there: a grid that is drawn again after a kill finds its line and adds
        no other.
        """
        logger.info("step %d against the teacher, %s", step, said(values))
        if step and (found := concerns(values)):
            logger.warning("step %d: %s", step, "; ".join(found))
        if self.metrics is None or self._has_line(step):
            return
        self.metrics.append({"step": step, **values})
        self.metrics.sync()
        log_numbers(self.run.machine.accelerator, values, step)

    def record(self) -> RunState:
        """All that a checkpoint holds, live."""
        return self.state.record(self.run.facts.record())

    def _export(self, folder: Path) -> None:
        self.run.publisher.export(folder / WEIGHTS_NAME, self.state.step)

    def save(self) -> None:
        """A checkpoint: the state to go on from, and the adapter as it is now, ready to load."""
        if self.run.machine.is_main:
            if self.metrics is not None:
                self.metrics.sync()  # a checkpoint must not be newer than the lines that lead to it
            if self.is_done:
                self.saver.insist(self.state.step, self.record(), self._asked)
            else:
                self.saver.save(self.state.step, self.record())
        self.run.machine.accelerator.wait_for_everyone()
