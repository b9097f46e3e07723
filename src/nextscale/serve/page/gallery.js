// Keeps pictures in IndexedDB, the newest 100; a reload finds them again.
const BOUND = 100;

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

export const all = async () => done((await store("readonly")).getAll());
export const clear = async () => done((await store("readwrite")).clear());

export async function keep(picture) {
  const pictures = await store("readwrite");
  picture.id = await done(pictures.add(picture));
  const ids = await done(pictures.getAllKeys());
  for (const id of ids.slice(0, Math.max(0, ids.length - BOUND))) pictures.delete(id);
}
