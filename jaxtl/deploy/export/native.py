"""jaxtl: one file in native names, which `model.weights` opens again bit for bit."""

from jaxtl.deploy.export import Format
from jaxtl.pretrained import save_native

FORMAT = Format("jaxtl", "one file", save_native, suffix=".safetensors")
