"""A page that predicts the expression of pasted or uploaded promoters. `python app.py` starts it; see README.md."""

import html
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gradio as gr
import numpy as np
from designs import LABELS, MAX_DESIGNS, Wishes, find_designs
from figures import Marks, Training, distribution, mutagenesis, read_training
from gradio.themes.utils.fonts import LocalFont
from sequences import (
    MAX_MEGABYTES,
    MAX_SEQUENCES,
    Entries,
    Prediction,
    alternate_allele,
    check_entries,
    columns_of_file,
    read_file,
    read_text,
    with_interval,
)
from tables import (
    designs_fasta,
    designs_link,
    designs_table,
    expression_table,
    mutagenesis_link,
    number,
    predictions_link,
    short,
    strongest_changes,
)
from transformers import PreTrainedModel

from modeling_proformer import ProformerTokenizer, mutate, predict, variant_effects
from modeling_proformer.data.tables import FASTA_SUFFIXES, InputError
from modeling_proformer.evaluation.figures import BLUE
from modeling_proformer.loading import load_checkpoint


FOLDER = Path(__file__).parent
EXAMPLE = (FOLDER / "example.fasta").read_text(encoding="utf-8")
# A folder or a repository on the Hub; by default the checkpoint that comes with the package.
CHECKPOINT = os.environ.get("PROFORMER_MODEL")

TITLE = "Proformer: promoter in, expression out"
EXPLANATION = """
<p>The logo shows how much expression falls on average when a base is replaced by another; below the line, how much it
rises. The heat map shows the effect of each single change: orange is more expression, blue is less, and dots mark the
bases of the sequence itself.</p>"""
CREDITS = """
<p class="credits"><a href="https://doi.org/10.1186/s12859-024-05645-5">Proformer</a> is the work of Kwak et al. 2024.
This page does not save what you paste, and deletes uploaded files within an hour.</p>"""

DARK_BLUE = "#17435f"
# Gradio includes these fonts; in these weights they have all characters of the page.
THEME = gr.themes.Default(
    primary_hue="blue",
    neutral_hue="slate",
    font=[LocalFont("IBM Plex Sans", (400, 700)), "sans-serif"],
    font_mono=[LocalFont("IBM Plex Mono", (400, 700)), "monospace"],
).set(
    button_primary_background_fill=BLUE,
    button_primary_background_fill_dark=BLUE,
    button_primary_background_fill_hover=DARK_BLUE,
    button_primary_background_fill_hover_dark=DARK_BLUE,
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
)


class Served(NamedTuple):
    """
    A model, and what the page says about it; `training` belongs to the model's first output, and `length` is that of
    most inserts of its assay.
    """

    model: PreTrainedModel
    tokenizer: ProformerTokenizer
    introduction: str
    units: str | None = None
    training: Training | None = None
    length: int | None = None


def serve_embedded() -> Served:
    """Return the checkpoint that comes with the package, with the distribution of its training data."""
    return Served(
        *load_checkpoint(),
        introduction="Paste promoters, and a small Proformer model predicts how strongly they express a reporter gene "
        "in yeast, as the mean sorting bin from 0 to 17 that "
        '<a href="https://doi.org/10.1038/s41587-019-0315-8">de Boer et al. 2020</a> measured. The model does not '
        "apply to other organisms or constructs, and it is least reliable for changes of single bases.",
        units="mean sorting bin",
        training=read_training(FOLDER / "training_expression.tsv"),
        length=80,
    )


def answer_expression(served: Served, entries: Entries) -> tuple[Prediction, str]:
    """Predict the expression of each sequence, and return it with the HTML that shows it."""
    check_entries(served.tokenizer, entries)
    prediction = with_interval(predict(served.model, served.tokenizer, entries.sequences), served.model.config)
    labels = [str(row + 1) for row in range(len(entries.names))]
    count = "1 sequence" if len(labels) == 1 else f"{len(labels):,} sequences"
    view = (
        note(f"Predicted the expression of {count}.")
        + distributions(served, prediction, labels)
        + expression_table("Predicted expression", "No.", labels, entries.names, prediction, served.training)
        + predictions_link(entries, prediction)
    )
    return prediction, view


def answer_mutagenesis(served: Served, entries: Entries, prediction: Prediction, row: int, output: int) -> str:
    """Predict all single changes of one of the sequences, and return the HTML that shows them."""
    sequence = entries.sequences[row]
    (result,) = mutate(served.model, served.tokenizer, [sequence])
    expression, changes = result.expression[:, :, output], result.effects[:, :, output]
    return (
        note(f"Predicted all single changes of {len(result.insert)} bases.")
        + EXPLANATION
        + mutagenesis(result, output, prediction.outputs[output])
        + strongest_changes(result.insert, expression, changes, prediction.outputs[output])
        + mutagenesis_link(result.insert, expression)
    )


def answer_variant(served: Served, entries: Entries, prediction: Prediction, row: int, text: str) -> str:
    """Predict a variant of one of the sequences, its reference, and return the HTML that compares them."""
    reference = entries.sequences[row]
    alternate = alternate_allele(served.tokenizer, reference, text)
    effect = variant_effects(served.model, served.tokenizer, [reference], [alternate])
    values = prediction.values[row] + np.concatenate([np.zeros_like(effect), effect])
    both = with_interval(values, served.model.config)
    labels = ["reference", "variant"]
    sentences = [
        f"Predicted {output} changes from {number(before)} to {number(after)} ({number(after - before, '+')})."
        for output, before, after in zip(both.outputs, *both.values, strict=True)
    ]
    names = [entries.names[row], " ".join(text.split())]
    return (
        note(" ".join(sentences))
        + distributions(served, both, labels)
        + expression_table("Reference and variant", "Allele", labels, names, both, served.training)
    )


def answer_design(served: Served, wishes: Wishes) -> str:
    """Design sequences, and return the HTML that shows them."""
    found = find_designs(served.model, served.tokenizer, wishes)
    values = np.array([each.predicted for each in found])
    prediction = with_interval(values, served.model.config)
    count = "1 sequence" if len(found) == 1 else f"{len(found):,} sequences"
    return (
        note(f"Designed {count} for {found[0].target}.")
        + distributions(served, prediction, [str(number) for number in range(1, len(found) + 1)])
        + designs_table(found, prediction)
        + designs_link(found, prediction)
        + designs_fasta(found)
    )


def distributions(served: Served, prediction: Prediction, labels: list[str]) -> str:
    """Return a figure for each output."""
    figures = ""
    for output, name in enumerate(prediction.outputs):
        column = (slice(None), output)
        ends = (None, None) if prediction.level is None else (prediction.low[column], prediction.high[column])
        marks = Marks(labels, prediction.values[column], prediction.level, *ends)
        scale = f"{name} ({served.units})" if served.units else name
        figures += distribution(marks, scale, served.training if output == 0 else None)
    return figures


def note(sentence: str) -> str:
    return f'<p class="note" role="status">{html.escape(sentence)}</p>'


def problem(sentence: str | InputError) -> str:
    return f'<p class="problem" role="alert">{html.escape(str(sentence))}</p>'


def build(served: Served) -> gr.Blocks:
    """Build the page."""
    outputs = [(name, output) for output, name in served.model.config.id2label.items()]

    def show_columns(path: str | None) -> dict:
        try:
            columns, found = ([], None) if path is None else columns_of_file(path)
        except InputError as error:
            return {problems: problem(error), column: gr.update(visible=False)}
        # A FASTA file has no column to choose.
        to_choose = path is not None and not path.lower().endswith(FASTA_SUFFIXES)
        return {problems: "", column: gr.update(choices=columns, value=found, visible=to_choose)}

    def show_expression(read: Callable[..., Entries], *given: str | None) -> dict:
        try:
            entries = read(*given)
            prediction, view = answer_expression(served, entries)
        except InputError as error:
            return {problems: problem(error), results: gr.update(visible=False)}
        choices = [(f"{row + 1}. {short(name)}", row) for row, name in enumerate(entries.names)]
        return {
            problems: "",
            results: gr.update(visible=True),
            session: (entries, prediction),
            expression_view: view,
            choice: gr.update(choices=choices, value=0),
            mutagenesis_view: "",
            variant_view: "",
        }

    def show_designs(*fields) -> dict:
        try:
            return {design_problems: "", design_view: answer_design(served, Wishes(*fields))}
        except InputError as error:
            return {design_problems: problem(error), design_view: ""}

    def show_answer(answer: Callable[..., str], held: tuple | None, row: int | None, given: str | int) -> str:
        # The server forgets predictions after an hour, and when it restarts.
        if held is None or row is None:
            return problem("There are no predictions any more: predict expression again, then choose a sequence.")
        try:
            return answer(served, *held, row, given)
        except InputError as error:
            return problem(error)

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(900, 1800)) as page:
        session = gr.State(time_to_live=3600)
        gr.HTML(f"<h1>{TITLE}</h1><p>{served.introduction}</p>")
        with gr.Tabs():
            with gr.Tab("Paste sequences"):
                text = gr.Textbox(
                    label="Sequences",
                    info=f"FASTA, a table, or one sequence on each line; at most {MAX_SEQUENCES:,}. Inserts have up "
                    f"to {served.tokenizer.insert_width} bases, with or without the flanks of the construct.",
                    lines=6,
                    max_lines=12,
                    elem_classes="sequence",
                )
                with gr.Row():
                    predict_text = gr.Button("Predict expression", variant="primary")
                    example = gr.Button("Try the example")
            with gr.Tab("Upload a file"):
                file = gr.File(label=f"FASTA, CSV or TSV file, at most {MAX_MEGABYTES} MB", height=140)
                column = gr.Dropdown(label="Column with the sequences", visible=False)
                predict_file = gr.Button("Predict expression of the file", variant="primary")
            with gr.Tab("Design"):
                several = ", or goals such as " + ",".join(f"{name}=max" for name, _ in outputs[:2])
                with gr.Row():
                    target = gr.Textbox(
                        label=LABELS["targets"],
                        info=f"A number, a range such as 6:8, max or min{several if len(outputs) > 1 else ''}.",
                        max_lines=1,
                    )
                    count = gr.Number(3, label=LABELS["number"], info=f"1 to {MAX_DESIGNS}.", precision=0)
                    length = gr.Number(
                        served.length or served.tokenizer.insert_width,
                        label=LABELS["length"],
                        info=f"Bases, at most {served.tokenizer.insert_width}.",
                        precision=0,
                    )
                with gr.Row():
                    avoid = gr.Textbox(
                        "BsaI BsmBI",
                        label=LABELS["avoid"],
                        info="Restriction enzymes, or motifs such as TATAWAWR.",
                        max_lines=1,
                    )
                    gc = gr.Textbox("30 60", label=LABELS["gc"], info="Least and greatest.", max_lines=1)
                    homopolymer = gr.Number(6, label=LABELS["max_homopolymer"], info="Bases.", precision=0)
                with gr.Row():
                    start = gr.Textbox(
                        label=LABELS["starts"],
                        info="A sequence to change, instead of random ones.",
                        lines=2,
                        max_lines=6,
                        elem_classes="sequence",
                    )
                    edits = gr.Number(10, label=LABELS["max_edits"], info="Of the start.", precision=0)
                make_designs = gr.Button("Design sequences", variant="primary")
                design_problems = gr.HTML()
                design_view = gr.HTML()
        problems = gr.HTML()
        with gr.Column(visible=False) as results:
            gr.HTML("<h2>Expression</h2>")
            expression_view = gr.HTML()
            gr.HTML("<h2>Base by base</h2><p>Replace each base by every other, and see what changes.</p>")
            with gr.Row():
                choice = gr.Dropdown(label="Sequence")
                output = gr.Dropdown(outputs, label="Output", visible=len(outputs) > 1)
            mutate = gr.Button("Change every base")
            mutagenesis_view = gr.HTML()
            gr.HTML("<h2>A variant</h2><p>It is compared with the sequence chosen above, its reference.</p>")
            variant = gr.Textbox(
                label="Variant",
                info="The whole sequence, or changes such as A34G or 34G; position 1 is the first base of the insert.",
                max_lines=8,
                elem_classes="sequence",
            )
            compare = gr.Button("Compare with its reference")
            variant_view = gr.HTML()
        gr.HTML(CREDITS)

        # The model computes for one visitor at a time, and the API of the server is private.
        event = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        from_text = partial(show_expression, read_text)
        shown = {
            "outputs": [problems, results, session, expression_view, choice, mutagenesis_view, variant_view],
            "show_progress_on": problems,
        }
        gr.on([predict_text.click, text.submit], from_text, text, **shown, **event)
        example.click(lambda: EXAMPLE, None, text, **event).then(from_text, text, **shown, **event)
        file.change(show_columns, file, [problems, column], show_progress_on=problems, **event)
        predict_file.click(partial(show_expression, read_file), [file, column], **shown, **event)
        make_designs.click(
            show_designs,
            [target, count, length, start, edits, avoid, gc, homopolymer],
            [design_problems, design_view],
            show_progress_on=design_problems,
            **event,
        )
        choice.input(lambda: ("", ""), None, [mutagenesis_view, variant_view], **event)
        mutate.click(partial(show_answer, answer_mutagenesis), [session, choice, output], mutagenesis_view, **event)
        gr.on(
            [compare.click, variant.submit],
            partial(show_answer, answer_variant),
            [session, choice, variant],
            variant_view,
            **event,
        )
    return page


def launch(served: Served, **options):
    """Build the page and serve it; `options` are those of `gradio.Blocks.launch`."""
    build(served).launch(
        theme=THEME,
        css_paths=FOLDER / "style.css",
        footer_links=[],
        # Smaller files that are still too large are refused with our own message.
        max_file_size="100mb",
        ssr_mode=False,
        state_session_capacity=200,
        # Gradio reads this out to screen readers, but lacks the translation.
        i18n=gr.I18n(en={"common.complete": "Finished"}),
        **options,
    )


def main():
    try:
        if CHECKPOINT:
            served = Served(*load_checkpoint(CHECKPOINT), introduction=f"The model is {html.escape(CHECKPOINT)}.")
        else:
            served = serve_embedded()
    except InputError as error:
        sys.exit(str(error))
    launch(served)


if __name__ == "__main__":
    main()
