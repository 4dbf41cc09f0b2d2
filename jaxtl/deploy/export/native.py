"""jaxtl: one file in native names, which `model.weights` opens again bit for bit."""

from jaxtl.deploy.export import Format
from jaxtl.deploy.export.weights import native_notes, reopened, save_native

FORMAT = Format("jaxtl", "one file", save_native, suffix=".safetensors", run=reopened, notes=native_notes)
