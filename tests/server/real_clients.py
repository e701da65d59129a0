"""The clients of other servers against a running `sam3 serve`, which must have the demo model.

    pip install inference-sdk label-studio-sdk cvat-sdk
    sam3 serve --port 8000 &
    python tests/server/real_clients.py http://127.0.0.1:8000
"""

import base64
import importlib.util
import json
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
from cvat_sdk.auto_annotation import InteractionResultShape
from inference_sdk import InferenceHTTPClient
from label_studio_sdk.converter import brush

ROOT = Path(__file__).parent.parent.parent
SCENE = ROOT / "tests/scenes/scene_2.png"
NUMBERS = np.array(PIL.Image.open(ROOT / "tests/scenes/scene_2_objects.png"))
RED_CIRCLE, WHITE_STAR = NUMBERS == 1, NUMBERS == 6
CLICK = (146.0, 184.0)  # on the red circle


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def filled(polygons):
    image = PIL.Image.new("1", (224, 224))
    for polygon in polygons:
        PIL.ImageDraw.Draw(image).polygon([tuple(point) for point in polygon], fill=1, outline=1)
    return np.array(image)


def roboflow(url):
    client = InferenceHTTPClient(api_url=url, api_key="x")
    prompts = [{"type": "text", "text": "white star"}]
    found = client.sam3_concept_segment(str(SCENE), prompts=prompts, format="polygon")
    masks = found["prompt_results"][0]["predictions"][0]["masks"]
    assert iou(filled(masks), WHITE_STAR) > 0.8, "concept_segment"
    points = {"prompts": [{"points": [{"x": CLICK[0], "y": CLICK[1], "positive": True}]}]}
    found = client.sam3_visual_segment(str(SCENE), prompts=points["prompts"])
    assert iou(filled(found["predictions"][0]["masks"]), RED_CIRCLE) > 0.8, "visual_segment"
    assert client.sam3_embed_image(str(SCENE), image_id="scene")["image_id"] == "scene"


def label_studio(url):
    config = (
        '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
        '<Label value="Circle"/></BrushLabels></View>'
    )
    region = {
        "type": "keypointlabels", "original_width": 224, "original_height": 224, "is_positive": 1,
        "value": {"x": CLICK[0] / 2.24, "y": CLICK[1] / 2.24, "width": 0.3, "keypointlabels": ["Circle"]},
    }
    image = "data:image/png;base64," + base64.b64encode(SCENE.read_bytes()).decode()
    body = {
        "tasks": [{"id": 1, "data": {"image": image}}], "label_config": config,
        "params": {"context": {"result": [region]}},
    }
    request = urllib.request.Request(
        url + "/label-studio/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    answer = json.load(urllib.request.urlopen(request))
    value = answer["results"][0]["result"][0]["value"]
    mask = brush.decode_rle(value["rle"]).reshape(224, 224, 4)[..., 3] > 127
    assert iou(mask, RED_CIRCLE) > 0.8, "label-studio"
    assert value["rle"] == brush.encode_rle((np.repeat(mask.ravel(), 4) * 255).astype(np.uint8)), "bytes"


def cvat(url):
    spec = importlib.util.spec_from_file_location("cvat_agent", ROOT / "tools/cvat_agent.py")
    agent = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(agent)
    function = agent.create(url)
    picture = function.preprocess_image(None, PIL.Image.open(SCENE))
    prompts = SimpleNamespace(pos_points=[CLICK], neg_points=[], bounding_box=None)
    [shape] = function.detect(None, picture, prompts)
    assert isinstance(shape, InteractionResultShape)
    *runs, x1, y1, x2, y2 = map(int, shape.points)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = np.zeros((224, 224), bool)
    mask[y1 : y2 + 1, x1 : x2 + 1] = flat.reshape(y2 - y1 + 1, x2 - x1 + 1)
    assert iou(mask, RED_CIRCLE) > 0.8, "cvat"


if __name__ == "__main__":
    import PIL.ImageDraw

    for check in (roboflow, label_studio, cvat):
        check(sys.argv[1].rstrip("/"))
        print(check.__name__, "works")
