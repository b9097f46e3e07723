#!/bin/sh
# Pictures of a running `nextscale serve`, by curl. The address may be given: sh draw.sh http://127.0.0.1:8000
set -eu
url=${1:-http://127.0.0.1:8000}

# One picture, whose PNG carries the recipe that draws it again.
curl -sSf "$url/v1/images/generations" -H 'content-type: application/json' \
  -d '{"prompt": "cat", "seed": 1, "response_format": "url"}' > answer.json
curl -sSf "$(sed 's/.*"url":"\([^"]*\)".*/\1/' answer.json)" -o cat.png

# The same, growing: one event after every scale.
curl -sSfN "$url/v1/images/generations" -H 'content-type: application/json' \
  -d '{"prompt": "cat", "seed": 1, "stream": true, "partial_images": "all"}' | grep '^event'

# Wider: what is added on both sides is painted.
curl -sSf "$url/v1/images/edits" -F image=@cat.png -F prompt=cat -F 'outpaint={"left": 8, "right": 8}' -F response_format=url > answer.json
curl -sSf "$(sed 's/.*"url":"\([^"]*\)".*/\1/' answer.json)" -o edited.png

# What the picture says of itself.
curl -sSf "$url/v1/recipe" -F image=@cat.png | head -c 300
