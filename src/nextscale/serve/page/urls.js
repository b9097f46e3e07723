// Addresses of blobs: every one is released when its place shows something else or goes away.
export function free(place) {
  for (const one of [place, ...place.querySelectorAll("img, a")]) {
    for (const name of ["src", "href"]) {
      const address = one.getAttribute(name);
      if (!address?.startsWith("blob:")) continue;
      URL.revokeObjectURL(address);
      one.removeAttribute(name);
    }
  }
}

/** Lets an image or a link show a blob. */
export function put(place, blob) {
  free(place);
  place[place.tagName === "A" ? "href" : "src"] = URL.createObjectURL(blob);
}
