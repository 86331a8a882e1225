"""The pages of the dashboard and its frame. Streamlit runs this file; `serve` says how."""

import streamlit as st

from ddpm_jax.dashboard import avatars, digits, monitor, training, ui
from ddpm_jax.datasets import avatars as avatars_data

STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding-top: 4rem; padding-bottom: 2rem; }
[data-testid="stImage"] img { image-rendering: pixelated; }
.st-key-sheet img { image-rendering: auto !important; }
@media (max-width: 640px) { [data-testid="stColumn"]:has(.st-key-result) { order: -1; } }
button[role="radio"][aria-checked="true"], button[role="radio"][aria-checked="true"] p { color: #0b4f49 !important; }
h1 { font-size: 1.9rem !important; padding: 0.25rem 0 !important; }
</style>"""

face = avatars_data.LABELS.parse("Cat, Wizard Hat", complete=True)[None]
st.set_page_config("ddpm_jax", ui.url(ui.png(avatars_data.PALETTE[avatars_data.render(face)[0]])), layout="wide")
st.html(STYLE)
st.navigation(
    [
        st.Page(avatars.show, title="Avatars", icon=":material/face:", url_path="avatars", default=True),
        st.Page(digits.show, title="Digits", icon=":material/draw:", url_path="digits"),
        st.Page(training.show, title="Train", icon=":material/model_training:", url_path="train"),
        st.Page(monitor.show, title="Monitor", icon=":material/monitoring:", url_path="monitor"),
    ],
    position="top",
).run()
