"""The pages of the dashboard and its frame. Streamlit runs this file; `serve` says how."""

import streamlit as st

from ddpm_jax.dashboard import avatars, digits, monitor, training

st.set_page_config(page_title="ddpm_jax", page_icon=":material/blur_on:", layout="wide")
st.navigation(
    {
        "Generate": [
            st.Page(avatars.show, title="Avatars", icon=":material/face:", url_path="avatars", default=True),
            st.Page(digits.show, title="Digits", icon=":material/draw:", url_path="digits"),
        ],
        "Learn": [
            st.Page(training.show, title="Train", icon=":material/model_training:", url_path="train"),
            st.Page(monitor.show, title="Monitor", icon=":material/monitoring:", url_path="monitor"),
        ],
    },
    position="top",
).run()
