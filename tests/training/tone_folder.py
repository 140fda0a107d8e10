"""A small folder of tones, quick to read and to learn."""

from pathlib import Path

import numpy as np
import soundfile as sf

RATE = 8000
FEATURES = "sampling_rate=8000,n_fft=256,win_length=256,hop_length=160,num_mel_bins=16"
MODEL = "hidden_size=8,num_hidden_layers=1,state_size=2,num_mel_bins=16"
PITCHES = {"low": 300.0, "middle": 700.0, "high": 1500.0}


def write_tone(path: Path, frequency: float, seed: int) -> None:
    """A quarter of a second of a tone in noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(RATE // 4) / RATE
    detuned = frequency * generator.uniform(0.95, 1.05)
    samples = 0.5 * np.sin(2 * np.pi * detuned * time) + 0.05 * generator.normal(size=len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples.astype(np.float32), RATE)


def write_tones(folder: Path, *, clips_per_class: int = 10) -> Path:
    """Clips with a `metadata.csv` of many columns.

    `label` is one of three pitches; `tags` names one or two of them; `valence` and `arousal` are numbers; `split` is
    train for seven of ten, validation for one and test for two; `fold` is 1, 2 or 3.
    """
    lines = ["file_name,label,tags,valence,arousal,split,fold"]
    for index in range(3 * clips_per_class):
        label = list(PITCHES)[index % 3]
        name = f"clips/{label}-{index}.wav"
        write_tone(folder / name, PITCHES[label], seed=index)
        within = index // 3 % 10
        split = "train" if within < 7 else "validation" if within < 8 else "test"
        tags = f"{label};tonal" if index % 2 else label
        number = PITCHES[label] / 1500
        lines.append(f"{name},{label},{tags},{number:.3f},{1 - number:.3f},{split},{1 + index // 3 % 3}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
