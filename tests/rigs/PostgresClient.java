import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

/** Reads the cafe by JDBC, and prints what it reads: a line for each row. */
public final class PostgresClient {
    private static void print(String what, ResultSet rows, String... columns) throws SQLException {
        while (rows.next()) {
            StringBuilder line = new StringBuilder(what);
            for (String column : columns) line.append(' ').append(rows.getString(column));
            System.out.println(line);
        }
        rows.close();
    }

    public static void main(String[] words) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", "me");
        properties.setProperty("password", words[1]);
        properties.setProperty("prepareThreshold", "2"); // in binary from the second time on
        Connection connection = DriverManager.getConnection(words[0], properties);
        DatabaseMetaData about = connection.getMetaData();
        print("table", about.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME", "REMARKS");
        print("column", about.getColumns(null, "public", "cafe_orders", "%"), "COLUMN_NAME", "TYPE_NAME", "NULLABLE");
        print("key", about.getPrimaryKeys(null, "public", "cafe_orders"), "COLUMN_NAME", "KEY_SEQ", "PK_NAME");
        print("index", about.getIndexInfo(null, "public", "cafe_orders", true, true), "INDEX_NAME", "COLUMN_NAME");
        print("right", about.getTablePrivileges(null, "public", "guests"), "PRIVILEGE");
        print("imported", about.getImportedKeys(null, "public", "cafe_orders"), "FKCOLUMN_NAME");
        String sql = "select guest, paid_at, price from cafe_orders where cups = ? and day >= ? and guest <> ? order by 1";
        PreparedStatement prepared = connection.prepareStatement(sql);
        for (int turn = 0; turn < 4; turn++) {
            prepared.setInt(1, 1);
            prepared.setDate(2, Date.valueOf("2026-01-05"));
            prepared.setString(3, "Bo");
            print("row " + turn, prepared.executeQuery(), "guest", "price");
        }
        connection.setAutoCommit(false);
        Statement statement = connection.createStatement();
        statement.setFetchSize(2);
        print("fetched", statement.executeQuery("select order_id from cafe_orders order by 1"), "order_id");
        connection.commit();
        try {
            statement.executeQuery("select * from nope");
        } catch (SQLException error) {
            System.out.println("error " + error.getSQLState());
        }
        connection.rollback();
        System.out.println("valid " + connection.isValid(5) + " " + connection.getSchema() + " " + connection.getCatalog());
        connection.close();
    }
}
