"""The command line: `detc VERB ...`.

Exit status: 0 fine; 1 a diagnostic, or something that does not agree; 2 a wrong command line; 3 a bug in detc;
130 interrupted.
"""

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    import typer

# Verb -> the module and the function in it. A command's module is imported only when the command is meant, so that
# `detc check` starts quickly.
COMMANDS = {
    "check": "detc.cli.check",
    "fmt": "detc.cli.fmt",
    "compile": "detc.cli.compile",
    "graph": "detc.cli.graph",
    "summary": "detc.cli.summary",
    "explain": "detc.cli.explain",
    "diff": "detc.cli.diff",
    "zoo": "detc.cli.zoo",
    "verify": "detc.cli.verify",
    "data": "detc.cli.data",
    "train": "detc.cli.train",
    "eval": "detc.cli.evaluate",
    "predict": "detc.cli.predict",
    "export": "detc.cli.export",
    "bench": "detc.cli.bench",
    "tune": "detc.cli.tune",
    "new": "detc.cli.new",
    "convert": "detc.cli.convert",
    "doctor": "detc.cli.doctor",
    "lsp": "detc.cli.lsp",
}
FUNCTIONS = {"eval": "evaluate", "compile": "compile_spec"}


def main() -> None:
    """Entry point of the `detc` command."""
    from detc.cli.common import report
    from detc.dsl.diagnostics import DiagnosticError

    # Before torch is loaded: threads that spin while they wait make it many times slower where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    try:
        status = _run(sys.argv[1:])
    except DiagnosticError as error:
        if _says_why():
            report(error.diagnostics)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # The reader of our output has had enough; silence the flush at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception:
        if _says_why():
            traceback.print_exc()
            print(
                "\ndetc: this is a bug in detc, not in what you gave it. Please report the command and the text above.",
                file=sys.stderr,
            )
        status = 3
    sys.exit(status)


def _says_why() -> bool:
    """Whether this process reports an error: alone it does, and of several that train together the first to fail."""
    from detc.runtime.training.launch import says_why

    return says_why()


def application(arguments: list[str]) -> "typer.Typer":
    """The program, with the command that the arguments mean; with all commands where they mean none."""
    import typer

    import detc

    app = typer.Typer(
        name="detc",
        help="A compiler for object detectors: .det specs become torch.fx, ONNX and TVM kernels.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    def show_version(value: bool) -> None:
        if value:
            print(f"detc {detc.__version__}")
            raise typer.Exit

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
        ] = False,
        kernels: Annotated[
            list[Path] | None, typer.Option(help="A Python file, which is run, with kernels of your own primitives.")
        ] = None,
    ) -> None:
        for path in kernels or ():
            from detc.runtime import plugins

            plugins.register(path)

    # With a verb given, only its module is loaded; without one (help, a misspelling), all are, for their descriptions.
    wanted = [a for a in arguments if not a.startswith("-")]
    verbs = [a for a in wanted if a in COMMANDS][:1] or list(COMMANDS)
    for verb in verbs:
        module = importlib.import_module(COMMANDS[verb])
        made = getattr(module, FUNCTIONS.get(verb, verb))
        if isinstance(made, typer.Typer):  # a verb with verbs of its own
            app.add_typer(made, name=verb)
        else:
            app.command(verb)(made)
    return app


def _run(arguments: list[str]) -> int:
    if "_DETC_COMPLETE" in os.environ:  # a shell asks how the command line goes on
        from detc.cli.completion import answer, typed

        answer(application(typed(os.environ)))
        return 0
    try:
        result = application(arguments)(arguments, standalone_mode=False, prog_name="detc")
    except Exception as error:
        # typer's own errors (a wrong command line) can show themselves. Its class is not public in all versions.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            return int(error.exit_code)
        raise
    return result if isinstance(result, int) else 0
