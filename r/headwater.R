# Headwater in R: tables of the lake, and tables and models of a server. Load it by source("headwater.R").
#
# Needs the packages arrow, curl and jsonlite. The key of the server is in the environment variable HEADWATER_API_KEY.

# The rows of a table of the lake, as a dataset of arrow: dplyr's verbs and as.data.frame() read it, only the columns and
# files that they need.
#
# lake     the folder of the lake, for example ".headwater/lake"
# table    the name of the table
# version  the number of a version; by default the newest
hw_lake <- function(lake, table, version = NULL) {
  folder <- Filter(dir.exists, file.path(lake, c("gold", "silver", "bronze"), table))
  if (length(folder) == 0) stop("the lake ", lake, " has no table '", table, "'; run `headwater run`", call. = FALSE)
  state <- .hw_snapshot(folder[[1]], version)
  schema <- .hw_schema(state$schema)
  if (length(state$files) == 0) return(arrow::arrow_table(schema = schema))
  arrow::open_dataset(file.path(folder[[1]], state$files), schema = schema, format = "parquet")
}

# The rows of a table that `headwater serve` serves, as a data frame. Rows are those of one version.
#
# url    where the server is, for example "http://127.0.0.1:8000"
# table  the name of the table
# ...    parameters in PostgREST syntax: select = "day,sales", sales = "gt.100", order = "day", version = "3"
hw_table <- function(url, table, ...) {
  given <- list(...)
  if (length(given) > 0 && (is.null(names(given)) || any(names(given) == ""))) {
    stop("name each parameter: select = \"day\"", call. = FALSE)
  }
  given <- c(given[setdiff(names(given), "limit")], limit = if (is.null(given$limit)) "10000" else given$limit)
  query <- paste(names(given), vapply(given, function(each) curl::curl_escape(as.character(each)), ""), sep = "=")
  following <- paste0("/v1/tables/", curl::curl_escape(table), "?", paste(query, collapse = "&"))
  pages <- list()
  while (!is.null(following)) {
    answer <- .hw_request(paste0(url, following), accept = "application/vnd.apache.arrow.stream")
    pages[[length(pages) + 1]] <- arrow::read_ipc_stream(answer$content, as_data_frame = FALSE)
    link <- curl::parse_headers_list(answer$headers)[["link"]]
    following <- if (is.null(link)) NULL else sub("^<(.*)>.*$", "\\1", link)
  }
  as.data.frame(.hw_in_utc(do.call(arrow::concat_tables, pages)))
}

# The predictions of the champion of a model, as a data frame with a row for each row of a data frame.
hw_predict <- function(url, model, rows) {
  body <- jsonlite::toJSON(list(rows = rows), dataframe = "rows", na = "null", digits = NA, POSIXt = "ISO8601", UTC = TRUE)
  answer <- .hw_request(paste0(url, "/v1/models/", curl::curl_escape(model), "/predict"), body = body)
  jsonlite::fromJSON(rawToChar(answer$content))$predictions
}

.hw_request <- function(url, accept = "application/json", body = NULL) {
  handle <- curl::new_handle()
  headers <- list(Accept = accept)
  key <- Sys.getenv("HEADWATER_API_KEY")
  if (nzchar(key)) headers[["Authorization"]] <- paste("Bearer", key)
  if (!is.null(body)) {
    curl::handle_setopt(handle, copypostfields = enc2utf8(body))
    headers[["Content-Type"]] <- "application/json"
  }
  curl::handle_setheaders(handle, .list = headers)
  answer <- curl::curl_fetch_memory(url, handle)
  if (answer$status_code >= 400) {
    error <- jsonlite::fromJSON(rawToChar(answer$content))
    parts <- c(error$detail, if (!is.null(error$got)) paste("got", error$got), error$do)
    stop(answer$status_code, ": ", paste(parts, collapse = "; "), call. = FALSE)
  }
  answer
}

# Times without a zone are in UTC; without this, R would show them in the zone of the machine.
.hw_in_utc <- function(rows) {
  types <- lapply(rows$schema$fields, function(field) {
    if (field$type$ToString() == "timestamp[us]") arrow::timestamp("us", "UTC") else field$type
  })
  rows$cast(do.call(arrow::schema, stats::setNames(types, names(rows))))
}

# The files and the schema of a version of a Delta table, from its log: the last checkpoint, and the commits after it.
.hw_snapshot <- function(folder, version) {
  log <- file.path(folder, "_delta_log")
  names <- list.files(log)
  commits <- as.numeric(sub("\\.json$", "", grep("^\\d{20}\\.json$", names, value = TRUE)))
  newest <- if (length(commits) == 0) -1 else max(commits)
  if (is.null(version)) version <- newest
  if (!(version %in% commits)) stop(folder, " has no version ", version, "; the newest is ", newest, call. = FALSE)
  points <- as.numeric(unique(sub("\\..*$", "", grep("^\\d{20}\\.checkpoint.*parquet$", names, value = TRUE))))
  start <- max(points[points <= version], -1)
  state <- list(files = character(), schema = NULL)
  if (start >= 0) state <- .hw_checkpoint(file.path(log, grep(sprintf("^%020.0f\\.checkpoint.*parquet$", start), names, value = TRUE)))
  needed <- if (version > start) seq(start + 1, version) else numeric()
  lost <- setdiff(needed, commits)
  if (length(lost) > 0) stop("version ", version, " of ", folder, " can no longer be read", call. = FALSE)
  for (number in needed) {
    for (line in readLines(file.path(log, sprintf("%020.0f.json", number)), encoding = "UTF-8")) {
      action <- jsonlite::fromJSON(line, simplifyVector = FALSE)
      if (!is.null(action$metaData)) state$schema <- action$metaData$schemaString
      if (!is.null(action$add)) {
        .hw_require_plain(action$add$deletionVector, folder)
        state$files <- union(state$files, utils::URLdecode(action$add$path))
      }
      if (!is.null(action$remove)) state$files <- setdiff(state$files, utils::URLdecode(action$remove$path))
    }
  }
  state
}

.hw_checkpoint <- function(files) {
  # a selection of nested columns would return others, and a text that may not be null is empty in rows of other actions
  parts <- lapply(files, function(file) as.data.frame(arrow::read_parquet(file, as_data_frame = FALSE)[c("add", "metaData")]))
  texts <- function(get) Filter(function(text) !is.na(text) && nzchar(text), unlist(lapply(parts, get)))
  if (length(texts(function(part) part$add$deletionVector$storageType)) > 0) .hw_require_plain(TRUE, files[[1]])
  added <- texts(function(part) part$add$path)
  schemas <- texts(function(part) part$metaData$schemaString)
  list(files = vapply(added, utils::URLdecode, "", USE.NAMES = FALSE), schema = schemas[[1]])
}

.hw_require_plain <- function(vector, folder) {
  if (!is.null(vector)) stop(folder, " has deletion vectors, which this function does not read", call. = FALSE)
}

.hw_schema <- function(text) {
  fields <- jsonlite::fromJSON(text, simplifyVector = FALSE)$fields
  types <- lapply(fields, function(field) .hw_type(field$type))
  do.call(arrow::schema, stats::setNames(types, vapply(fields, function(field) field$name, "")))
}

# The type of arrow for a type of Delta. Times without a zone are in UTC.
.hw_type <- function(type) {
  if (is.list(type)) {
    return(switch(type$type,
      array = arrow::list_of(.hw_type(type$elementType)),
      map = arrow::map_of(.hw_type(type$keyType), .hw_type(type$valueType)),
      struct = do.call(arrow::struct, stats::setNames(
        lapply(type$fields, function(field) .hw_type(field$type)), vapply(type$fields, function(field) field$name, "")
      ))
    ))
  }
  if (startsWith(type, "decimal")) {
    digits <- as.integer(regmatches(type, gregexpr("[0-9]+", type))[[1]])
    return(arrow::decimal128(digits[[1]], digits[[2]]))
  }
  switch(type,
    string = arrow::utf8(), long = arrow::int64(), integer = arrow::int32(), short = arrow::int16(), byte = arrow::int8(),
    float = arrow::float32(), double = arrow::float64(), boolean = arrow::bool(), binary = arrow::binary(),
    date = arrow::date32(), timestamp = arrow::timestamp("us", "UTC"), timestamp_ntz = arrow::timestamp("us", "UTC"),
    stop("columns of type ", type, " cannot be read", call. = FALSE)
  )
}
