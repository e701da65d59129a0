// What survives a reload: the picture and its objects, in the browser's own database.

const NAME = "sam3", STORE = "work", KEY = "last";

const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
// Without a database, as in some private windows, the page works and forgets.
opened.catch(() => {});

async function run(mode, work) {
  const database = await opened;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, mode);
    const request = work(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

export const load = () => run("readonly", (store) => store.get(KEY)).catch(() => null);

export const save = (work) => run("readwrite", (store) => store.put(work, KEY)).catch(() => {});
