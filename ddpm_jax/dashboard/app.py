"""The pages of the dashboard and its frame. Streamlit runs this file; `serve` says how."""

import streamlit as st

from ddpm_jax.dashboard import avatars, digits, monitor, training, ui
from ddpm_jax.datasets import avatars as avatars_data

STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding-top: 4rem; padding-bottom: 2rem; }
[data-testid="stImage"] img { image-rendering: pixelated; border-radius: 0; }
.st-key-sheet { overflow-x: auto; }
.st-key-sheet img { max-width: none !important; width: auto !important; }
.st-key-large img { background: repeating-conic-gradient(#ddd 0 25%, #fff 0 50%) 0 0 / 24px 24px; }
@media (max-width: 640px) { [data-testid="stColumn"]:has(.st-key-result) { order: -1; } }
button[role="radio"][aria-checked="true"], button[role="radio"][aria-checked="true"] p { color: #0b4f49 !important; }
h1 { font-size: 1.9rem !important; padding: 0.25rem 0 !important; }
</style>"""

face = avatars_data.LABELS.parse("Cat, Wizard Hat", complete=True)[None]
icon = ui.url(ui.png(avatars_data.PALETTE[avatars_data.render(face)[0]]))
st.set_page_config(page_icon=icon, layout="wide")  # first of all: else an icon of the page's is fetched from afar
st.html(STYLE)
page = st.navigation(
    [
        st.Page(avatars.show, title="Avatars", icon=":material/face:", default=True),
        st.Page(digits.show, title="Digits", icon=":material/draw:", url_path="digits"),
        st.Page(training.show, title="Train", icon=":material/model_training:", url_path="train"),
        st.Page(monitor.show, title="Monitor", icon=":material/monitoring:", url_path="monitor"),
        # Streamlit gives a default page no path of its own.
        st.Page(avatars.show, title="Avatars", url_path="avatars", visibility="hidden"),
    ],
    position="top",
)
st.set_page_config(f"{page.title} - ddpm_jax")
page.run()
