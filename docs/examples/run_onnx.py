"""Upscale a clip by an exported recurrent network: run_onnx.py FOLDER lq.npy output.npy; (t, h, w, 3), RGB, uint8."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder, source, target = sys.argv[1:]
manifest = json.loads(Path(folder, 'manifest.json').read_text())
files = {name: onnxruntime.InferenceSession(f'{folder}/{name}') for name in manifest['sha256'] if 'onnx' in name}


def run(step, known):  # by the file that takes the most inputs of those that exist
    graphs = [g for g in manifest['steps'].get(step, []) if all(v['name'] in known for v in g['inputs'])]
    best = max(graphs, key=lambda g: len(g['inputs']), default={'inputs': [], 'outputs': []})
    inputs = {v['name']: known[v['name']] for v in best['inputs']}
    results = files[best['file']].run(None, inputs) if graphs else []
    return {name.replace('new_', ''): result for name, result in zip(best['outputs'], results)}


frames = [{'frame': x[None].transpose(0, 3, 1, 2).astype(np.float32) / 255} for x in np.load(source)]
frames = [{**frame, **run('extract', frame)} for frame in frames]
clip = []  # of each frame, what steps may take
for i, frame in enumerate(frames):
    sides = [(side, frames[j]) for side, j in (('previous', i - 1), ('next', i + 1)) if 0 <= j < len(frames)]
    clip.append({**frame, **{f'{side}_{name}': value for side, other in sides for name, value in other.items()}})
    for side, other in sides:
        clip[i].update({f'flow_to_{side}': v for v in run('flow', {**frame, 'other': other['frame']}).values()})
state, outputs = {}, []
for known in reversed(clip):
    state = run('backward_step', {**known, **state})
    known.update({f'backward_{name}': value for name, value in state.items()})
state = {}
for known in clip:
    state = run('forward_step', {**known, **state})
    outputs.append(run('upsample', {**known, **state})['output'][0].transpose(1, 2, 0))
np.save(target, (np.stack(outputs).clip(0, 1) * 255).round().astype(np.uint8))
