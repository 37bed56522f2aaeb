// graphile-worker: local queue and batched completion as in its performance guide.
import { monotonic, peer, serve, spread } from "./protocol.mjs";

const { Logger, makeWorkerUtils, run } = peer("graphile-worker");

const CONCURRENT_JOBS = 24;
const logger = new Logger(() => () => {});

class GraphileWorker {
  constructor(dsn) {
    this.preset = {
      worker: {
        connectionString: dsn,
        concurrentJobs: CONCURRENT_JOBS,
        maxPoolSize: CONCURRENT_JOBS + 1,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        logger,
      },
    };
  }
  async open(install) {
    this.utils = await makeWorkerUtils({ preset: this.preset });
    if (install) await this.utils.migrate();
  }
  async enqueue(count, clients) {
    await spread(count, clients, () => this.utils.addJob("measured", {}));
  }
  async bulk(count, size) {
    const jobs = Array.from({ length: size }, () => ({ identifier: "measured", payload: {} }));
    for (let made = 0; made < count; made += size) await this.utils.addJobs(jobs);
  }
  async probe() {
    await this.utils.addJob("measured", {});
    return monotonic();
  }
  async start(ran) {
    const taskList = { measured: (payload, helpers) => ran(helpers.job.id) };
    this.runner = await run({ preset: this.preset, taskList, parsedCronItems: [], noHandleSignals: true });
  }
  async stop() {
    await this.runner.stop();
  }
  async close() {
    await this.utils.release();
  }
}

await serve(new GraphileWorker(process.argv[2]));
