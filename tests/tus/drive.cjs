// What tus-js-client does with the hub: one scenario, told by the arguments; prints what came of it as JSON.
"use strict";
const fs = require("fs");
const path = require("path");
const tus = require("tus-js-client");

const [scenario, endpoint, token, file, notes] = process.argv.slice(2);
const resumedAt = [];

function options(more, done) {
  return {
    endpoint,
    headers: { Authorization: `Bearer ${token}` },
    metadata: { filename: "guests.csv", filetype: "text/csv", document_type: "csv" },
    urlStorage: new tus.FileUrlStorage(notes),
    removeFingerprintOnSuccess: true,
    retryDelays: [0, 50, 100],
    onAfterResponse: (request, response) => {
      if (request.getMethod() === "HEAD") resumedAt.push(Number(response.getHeader("Upload-Offset")));
    },
    onSuccess: () => done({}),
    onError: (error) =>
      done({ status: error.originalResponse ? error.originalResponse.getStatus() : 0, error: String(error) }),
    ...more,
  };
}

// Starts an upload; `more` may decide to end it by calling `stop` with what is to be told.
function run(more, prepare) {
  return new Promise((resolve) => {
    let upload;
    const done = (told) => resolve({ url: upload.url, ...told });
    upload = new tus.Upload(fs.createReadStream(file), options(more((told) => done(told), () => upload), done));
    Promise.resolve(prepare ? prepare(upload) : null).then(() => upload.start());
  });
}

const plain = (more) => run(() => more);

// Aborted when so many bytes have been accepted; somebody else finds it and goes on.
async function aborted() {
  const first = await run((stop, upload) => ({
    chunkSize: 300_000,
    onChunkComplete: (_, accepted) => {
      if (accepted >= 1_000_000) upload().abort().then(() => stop({}));
    },
  }));
  const second = await run(
    () => ({}),
    async (upload) => {
      const previous = await upload.findPreviousUploads();
      upload.resumeFromPreviousUpload(previous[0]);
    },
  );
  return { ...second, same: first.url === second.url };
}

const scenarios = {
  plain: () => plain({}),
  with_creation: () => plain({ uploadDataDuringCreation: true, chunkSize: 500_000 }),
  post_only: () => plain({ overridePatchMethod: true, chunkSize: 500_000 }),
  parallel: () => plain({ parallelUploads: 3 }),
  aborted,
  terminated: () =>
    run((stop, upload) => ({
      chunkSize: 300_000,
      onChunkComplete: () => {
        const { url } = upload();
        upload().abort(true).then(() => stop({ url }));
      },
    })),
  // The snippet of the documentation, as it stands: the file comes from a page there.
  documented: () =>
    new Promise((resolve) => {
      const page = fs.readFileSync(path.join(__dirname, "../../docs/uploads-tus.md"), "utf8");
      const code = /```js\n([^]*?)```/.exec(page)[1];
      const body = code.replace(/^import .*$/m, "").replace("https://hub.example/v1/uploads", endpoint);
      const document = Object.assign(fs.readFileSync(file), { name: "passport.pdf", type: "application/pdf" });
      const said = { log: (word, url) => word === "arrived" && resolve({ url }), error: (error) => resolve({ error: String(error) }) };
      const AsyncFunction = (async () => {}).constructor;
      new AsyncFunction("tus", "file", "getToken", "console", body)(tus, document, async () => token, said);
    }),
  wrong_checksum: () =>
    plain({
      onBeforeRequest: (request) => {
        if (request.getMethod() === "PATCH") request.setHeader("Upload-Checksum", "md5 AAAAAAAAAAAAAAAAAAAAAA==");
      },
    }),
  wrong_offset: () =>
    plain({
      retryDelays: null,
      onBeforeRequest: (request) => {
        if (request.getMethod() === "PATCH") request.setHeader("Upload-Offset", "7");
      },
    }),
};

scenarios[scenario]().then((told) => {
  console.log(JSON.stringify({ ...told, resumedAt }));
  // A request that was answered before all of it was sent keeps node alive.
  process.exit();
});
