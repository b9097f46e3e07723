// Keeps pictures in IndexedDB, the newest within two bounds; a reload finds them again.
const MOST = 100, BYTES = 256 * 2 ** 20;

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

let opened;
function open() {
  const request = indexedDB.open("nextscale", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
  return done(request);
}

async function store(mode) {
  opened ??= open();
  return (await opened).transaction("pictures", mode).objectStore("pictures");
}

const size = (picture) => picture.frames.reduce((bytes, frame) => bytes + frame.size, picture.blob.size);

export const all = async () => done((await store("readonly")).getAll());
export const clear = async () => done((await store("readwrite")).clear());
export const remove = async (id) => done((await store("readwrite")).delete(id));

/** Keeps a picture, or what has changed of one; returns the ids of those that had to go. */
export async function keep(picture) {
  const pictures = await store("readwrite");
  picture.id = await done(pictures.put(picture));
  let count = 0, bytes = 0;
  const gone = [];
  for (const one of (await done(pictures.getAll())).reverse()) {
    count += 1;
    bytes += size(one);
    if (count > 1 && (count > MOST || bytes > BYTES)) gone.push(one.id);
  }
  for (const id of gone) pictures.delete(id);
  return gone;
}
