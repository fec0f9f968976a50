#!/bin/bash
# Pictures of a page that --report wrote, to be looked at: 400 and 1400 pixels wide, light and dark.
#
#   tests/look.sh report.html pictures/
#
# Needs Chromium (Debian's package chromium). No test needs it: tests/look.rs reads the page without a browser.
set -euo pipefail
page=$(realpath "$1")
mkdir -p "$2"
pictures=$(realpath "$2")
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
for width in 400 1400; do
  height=$([ $width = 400 ] && echo 4600 || echo 3400)
  # A window cannot be as narrow as a phone; a frame can, and media queries go by the frame.
  cat > "$profile/frame.html" <<EOF
<!DOCTYPE html><meta name="color-scheme" content="light dark"><style>body{margin:0}iframe{border:0;display:block}</style>
<iframe src="file://$page" width="$width" height="$height"></iframe>
EOF
  for scheme in light dark; do
    dark=$([ $scheme = dark ] && echo 0 || echo 1)
    chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
      --disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files \
      --user-data-dir="$profile/$scheme-$width" --blink-settings=preferredColorScheme=$dark \
      --window-size=$((width < 600 ? 600 : width)),$height --screenshot="$pictures/$scheme-$width.png" \
      "file://$profile/frame.html" > "$profile/log" 2>&1 || { cat "$profile/log"; exit 1; }
    echo "$pictures/$scheme-$width.png"
  done
done
