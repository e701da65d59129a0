"""Clicks and boxes in CVAT, answered by `sam3 serve`.

    sam3 serve -m sam3.pt
    pip install cvat-cli cvat-sdk pillow numpy
    cvat-cli --server-host https://app.cvat.ai --auth NAME function create-native sam3 \\
        --function-file tools/cvat_agent.py
    cvat-cli --server-host https://app.cvat.ai --auth NAME function run-agent ID \\
        --function-file tools/cvat_agent.py -p url=str:http://127.0.0.1:8000

The agent asks CVAT for work, so that neither needs a way in.
"""

import base64
import io
import json
import urllib.error
import urllib.request

import cvat_sdk.auto_annotation as cvataa
import numpy as np
import PIL.Image
from cvat_sdk.masks import encode_mask


class Sam3:
    spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, url, token):
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, path, body, kind):
        request = urllib.request.Request(self.url + path, body, {**self.headers, "Content-Type": kind})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def preprocess_image(self, context, image):
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")
        return self.ask("/api/v1/images", file.getvalue(), "image/png")["id"], file.getvalue()

    def detect(self, context, picture, prompts):
        image_id, file = picture
        points = [*prompts.pos_points, *prompts.neg_points]
        prompt = {"points": points, "labels": [1] * len(prompts.pos_points) + [0] * len(prompts.neg_points)}
        if prompts.bounding_box:
            prompt["box"] = [edge for corner in prompts.bounding_box for edge in corner]
        body = json.dumps({"objects": [prompt], "output": "png"}).encode()
        try:
            answer = self.ask(f"/api/v1/images/{image_id}/segment", body, "application/json")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            self.ask("/api/v1/images", file, "image/png")  # the server has forgotten it
            answer = self.ask(f"/api/v1/images/{image_id}/segment", body, "application/json")
        masks = [io.BytesIO(base64.b64decode(found["mask"]["png"])) for found in answer["objects"]]
        bitmaps = [np.array(PIL.Image.open(mask)) > 127 for mask in masks]
        return [cvataa.InteractionResultShape(type="mask", points=encode_mask(bitmap)) for bitmap in bitmaps]


def create(url="http://127.0.0.1:8000", token=""):
    return Sam3(url, token)
